"""Texts: what a mapping is fitted on and a measurement made on, as documents in a fixed order.

`base` says what they are, `reading` finds them in files, `sampling` lets the model write them, and
`cutting` makes windows of tokens of them, for one model or aligned for two.
"""

from bathyscope.texts.base import Texts, given_texts, split_texts
from bathyscope.texts.cutting import AlignedWindow, aligned_windows, windows
from bathyscope.texts.reading import read_texts
from bathyscope.texts.sampling import sampled_texts

__all__ = [
    "AlignedWindow",
    "Texts",
    "aligned_windows",
    "given_texts",
    "read_texts",
    "sampled_texts",
    "split_texts",
    "windows",
]
