"""Lenses: earlier ways to read representations, each a patchscope with its choices made."""

from bathyscope.lenses.directions import backward_lens, embedding_space
from bathyscope.lenses.future import future_lens
from bathyscope.lenses.interpretation import selfie
from bathyscope.lenses.vocabulary import (
    LensOptions,
    attribute_lens,
    bare_placeholder,
    jacobian_lens,
    linear_shortcut,
    logit_lens,
    token_identity,
    tuned_lens,
)

__all__ = [
    "LensOptions",
    "attribute_lens",
    "backward_lens",
    "bare_placeholder",
    "embedding_space",
    "future_lens",
    "jacobian_lens",
    "linear_shortcut",
    "logit_lens",
    "selfie",
    "token_identity",
    "tuned_lens",
]
