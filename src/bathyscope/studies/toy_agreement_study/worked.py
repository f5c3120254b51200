"""The worked example: a network and a coder with weights set by hand, whose every effect is known.

H2 is active in both runs and changes nothing, since both verbs' logits take the same of it.
"""

from typing import Final

import torch

from bathyscope.sae import KeepAbove, SparseCoder
from bathyscope.studies.toy_agreement_study.network import AgreementNetwork


def _matrix(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


NETWORK: Final = AgreementNetwork(
    hidden=_matrix((1, 0), (0, 1), (1, 1), (1, -1)),
    hidden_bias=_matrix((0, 0, 0, 0))[0],
    output=_matrix((1, -1, 0.5, 1), (-1, 1, 0.5, -1)),
    output_bias=_matrix((0, 0))[0],
)

CODER: Final = SparseCoder(
    encoder=_matrix((0.5, 0, 0, 0.5), (0, 1, 0, 0), (0, 0, 1, 0)),
    encoder_bias=_matrix((0, 0, -0.5))[0],
    decoder=_matrix((1, 0, 0, 1), (0, 1, 0, 0), (0, 0, 1, 0)),
    decoder_bias=_matrix((0, 0, 0, 0))[0],
    selection=KeepAbove(torch.zeros((), dtype=torch.float64)),
)
"""Its first decoder row has length sqrt(2): it was written for numbers that are easy to read."""
