"""Rules from a stream of blocks: counted and chosen on one half of the documents, measured on the other.

Beside each goes a control: the same once more, with the codes of each block's positions exchanged.
"""

import torch
from torch import Tensor

from bathyscope.sae.reading.passes import Block
from bathyscope.sae.reading.rule_choice import choose_rules
from bathyscope.sae.reading.rule_counts import Counts, Measuring, shuffled
from bathyscope.sae.reading.rules import Agreement, MeasuredRule, Rule


class RuleFinder:
    """Finds rules.

    Memory grows with the different tokens that each latent is active with: at most 36 bytes for each position to fit
    on and each latent that is active there, and as much for the control.

    Args:
        n_latents: how many latents there are.
        shapes: which shapes each token has, (tokens, shapes).
        seed: of the exchanged positions.
    """

    def __init__(self, n_latents: int, shapes: Tensor, seed: int) -> None:
        self._found, self._control = (_Finder(n_latents, shapes) for _ in range(2))
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, block: Block) -> None:
        """Take in a block; those to fit on come first."""
        entries = block.entries
        self._found.add(block, entries.latents, entries.places)
        self._control.add(block, entries.latents, shuffled(entries.places, block.rows, self._generator))

    def rules(self) -> tuple[MeasuredRule | None, ...]:
        """One for each latent; None where no token or shape is met with it twice."""
        controls = self._control.measured()
        return tuple(
            found and MeasuredRule(*found, control[2] if control else None)
            for found, control in zip(self._found.measured(), controls, strict=True)
        )


class _Finder:
    def __init__(self, n_latents: int, shapes: Tensor) -> None:
        self._shapes = shapes
        self._counts = Counts(n_latents, len(shapes))
        self._chosen: list[tuple[Rule, Agreement] | None] = []
        self._measuring: Measuring | None = None

    def add(self, block: Block, latents: Tensor, places: Tensor) -> None:
        if block.half == "fit":
            self._counts.add(block, latents, places)
            return
        if self._measuring is None:
            self._counts.settle()
            self._chosen = choose_rules(self._counts, self._shapes)
            self._measuring = Measuring([one and one[0] for one in self._chosen], self._shapes)
        self._measuring.add(block, latents, places)

    def measured(self) -> list[tuple[Rule, Agreement, Agreement] | None]:
        """Each latent's rule, how it agrees where it was chosen, and elsewhere."""
        assert self._measuring is not None, "the held-out half has a window, or the pass has raised"
        return [
            chosen and agreement and (*chosen, agreement)
            for chosen, agreement in zip(self._chosen, self._measuring.agreements(), strict=True)
        ]
