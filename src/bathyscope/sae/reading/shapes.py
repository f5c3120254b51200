"""Shapes of tokens: what one can say of a token's looks, as sets that overlap.

Knows text, and no model.
"""

import re
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

SHAPES: Final = {
    "the start of a word": r" \w.*",
    "the inside or end of a word": r"[^\W\d_]+",
    "the start of a word with a capital": r" ?[A-ZÀ-ÖØ-Þ]\w*",
    "capitals only": r" ?[A-ZÀ-ÖØ-Þ]{2,}",
    "digits": r" ?\d+",
    "punctuation": r" ?[^\w\s]+",
    "an opening bracket or quote": r" ?[(\[{\"'“«]",
    "the end of a sentence": r" ?[.!?]+",
    "space or a new line": r"\s+",
}
"""What a token is, and what all of its text is then like."""


def shapes_of(texts: Sequence[str]) -> Tensor:
    """Which shapes tokens have, (tokens, shapes).

    Example:
        >>> from bathyscope.sae.reading.shapes import SHAPES, shapes_of
        >>> found = shapes_of([" 1984", " Paris"])
        >>> [[name for name, has in zip(SHAPES, row) if has] for row in found]
        [['the start of a word', 'digits'], ['the start of a word', 'the start of a word with a capital']]
    """
    patterns = [re.compile(pattern, re.DOTALL) for pattern in SHAPES.values()]
    rows = [[bool(pattern.fullmatch(text)) for pattern in patterns] for text in texts]
    return torch.tensor(rows, dtype=torch.bool).reshape(len(texts), len(SHAPES))
