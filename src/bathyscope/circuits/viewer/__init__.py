"""The picture of a circuit as one page to explore, as a still picture, and as text for Graphviz."""

from bathyscope.circuits.viewer.dot import to_dot
from bathyscope.circuits.viewer.page import viewer_page
from bathyscope.circuits.viewer.still import still_picture
from bathyscope.circuits.viewer.view import Drawn, View, circuit_view, graph_view

__all__ = ["Drawn", "View", "circuit_view", "graph_view", "still_picture", "to_dot", "viewer_page"]
