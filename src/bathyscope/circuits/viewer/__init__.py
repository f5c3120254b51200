"""The picture of a circuit as one page to explore, and the same graph as text for Graphviz."""
