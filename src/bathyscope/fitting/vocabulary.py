"""Which tokens a training step computes the logits of: all of a vocabulary, or a sample that stands for all.

A divergence over a vocabulary costs a product with every row of the unembedding, twice: for the logits,
and for the gradient. Nearly all probability lies on few tokens, other ones in every batch. So tokens are
drawn with unequal probabilities (the likely ones always) and each counts as often as it would have to for
sums over the sample to be those over the vocabulary on average. Knows no models and nothing of layers.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

BLIND: Final = 0.1
"""Share of the draws that goes to all tokens alike, because what is thought of their mass may be out of date."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Tokens that stand for a vocabulary.

    Args:
        tokens: their ids, ascending, (tokens,), or None for the whole vocabulary.
        log_weights: log of the number of tokens that each stands for, (tokens,); a scalar 0 for the whole vocabulary.
    """

    tokens: Tensor | None
    log_weights: Tensor

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution over the sample, (rows, tokens), each token counted as often as its weight says.

        Its normaliser is the sum of weight times exp(logit), which on average is the normaliser over the vocabulary.
        """
        return torch.softmax(logits if self.tokens is None else logits + self.log_weights, -1)


def whole_vocabulary() -> Sample:
    """The sample that leaves nothing out: what is made of it is exact.

    Example:
        >>> import torch
        >>> from bathyscope.fitting.vocabulary import whole_vocabulary
        >>> whole_vocabulary().probabilities(torch.zeros(1, 4)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    return Sample(None, torch.zeros(()))


def draw(mass: Tensor, size: int, generator: torch.Generator) -> Sample:
    """Draw tokens, the more certainly the more probability they are thought to hold.

    A token is drawn with a probability that is proportional to its mass (mixed with an equal share for all, `BLIND`)
    and at most 1, and stands for 1/that many: so any sum over the vocabulary is met on average, whatever the mass.
    The draw is systematic: one random number decides it, and the size never varies by more than one token.

    Args:
        mass: how much probability each token is thought to hold, not negative, (vocabulary,).
        size: how many are drawn; the whole vocabulary where that is no more.
        generator: what decides.

    Example:
        >>> import torch
        >>> from bathyscope.fitting.vocabulary import draw
        >>> mass = torch.tensor([8.0, 1.0, 0.0, 1.0])
        >>> sample = draw(mass, 2, torch.Generator().manual_seed(0))
        >>> 0 in sample.tokens, len(sample.tokens)
        (True, 2)
    """
    if size >= len(mass):
        return whole_vocabulary()
    chances = inclusion(mass, size)
    # Those that are certain are left out of the running sum, which rounding could let one of them slip through.
    sure = chances >= 1
    ends = torch.where(sure, 0.0, chances).cumsum(0)
    mark = torch.rand((), generator=generator, dtype=torch.float64)
    crossed = torch.floor(ends - mark).diff(prepend=torch.floor(-mark)[None]) > 0
    tokens = (sure | crossed).nonzero()[:, 0]
    return Sample(tokens, -chances[tokens].log().to(mass.dtype))


def inclusion(mass: Tensor, size: int) -> Tensor:
    """With which probability each token is drawn, (vocabulary,), float64; they add up to `size`.

    Args:
        mass: how much probability each token is thought to hold, (vocabulary,).
        size: how many are drawn, fewer than the vocabulary.
    """
    mass = mass.double()
    mass = (1 - BLIND) * mass / mass.sum().clamp_min(1e-300) + BLIND / len(mass)
    ranked, order = mass.sort(descending=True)
    left = ranked.flip(0).cumsum(0).flip(0)
    room = size - torch.arange(len(mass), dtype=torch.float64)
    # The first token, by rank, whose fair share of the draws that are left is no more than certainty.
    n_sure = int((room * ranked <= left).int().argmax())
    chances = mass * (room[n_sure] / left[n_sure])
    chances[order[:n_sure]] = 1.0
    return chances.clamp_max(1.0)


def kl_gradient(logits: Tensor, teacher: Tensor, sample: Sample) -> Tensor:
    """Gradient of the mean over rows of KL(teacher || student) with respect to the student's logits.

    It is the exact gradient of the divergence between the two distributions over the sample. With the whole
    vocabulary that is the divergence itself; where student and teacher agree it is zero for every sample.

    Args:
        logits: the student's, (rows, tokens).
        teacher: the teacher's distribution over the same sample (`Sample.probabilities`), (rows, tokens).
        sample: the tokens.

    Returns:
        (rows, tokens).
    """
    return sample.probabilities(logits).sub_(teacher).div_(len(logits))
