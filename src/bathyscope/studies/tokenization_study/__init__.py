"""The tokenization study: what the pieces of a split word read as."""
