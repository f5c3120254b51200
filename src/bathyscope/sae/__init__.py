"""Sparse coders: autoencoders and transcoders that take representations apart; trained, measured, run, read."""

from bathyscope.sae.code import Code, KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats import coder_folders, load_coder, save_coder

__all__ = [
    "Code",
    "KeepAbove",
    "KeepTop",
    "Selection",
    "SparseCoder",
    "coder_folders",
    "load_coder",
    "save_coder",
]
