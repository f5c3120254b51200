"""Sparse coders: autoencoders and transcoders that take representations apart; trained, measured, run, read."""

from bathyscope.sae.code import Code, KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.splice import Edit, Splice

__all__ = ["Code", "Edit", "KeepAbove", "KeepTop", "Selection", "SparseCoder", "Splice"]
