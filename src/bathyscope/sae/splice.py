"""Splice: a model run with a sparse coder in place, its error kept or dropped, its latents clamped or steered.

An intervention like any other: it is written at a site, a position, a time. Knows no model but to check a coder.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import InterventionError, UsageError
from bathyscope.interventions import Intervention, When, Write
from bathyscope.model import Model
from bathyscope.sae.code import Code
from bathyscope.sae.coder import SparseCoder
from bathyscope.sites import Site

Action = Literal["clamp", "scale", "add"]
Error = Literal["keep", "drop"]

ACTIONS: Final = get_args(Action)


@dataclass(frozen=True)
class Edit:
    """A change of one latent, in units of its activation.

    Args:
        latent: its number.
        action: "clamp" sets it to a value, "scale" multiplies it, "add" adds to it.
        value: by which, or to what; 0 with "clamp" takes the latent away.

    Raises:
        UsageError: no such action, or a value that is not finite.

    Example:
        >>> from bathyscope.sae import Edit
        >>> Edit(7, "clamp", 5.0).value
        5.0
    """

    latent: int
    action: Action
    value: float

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise UsageError(f"an edit {self.action!r} was given", f"it is one of {', '.join(ACTIONS)}", "clamp")
        if self.latent < 0 or not abs(self.value) < float("inf"):
            raise UsageError(
                f"{self} was given", "a latent from 0 and a finite value are needed", 'Edit(7, "clamp", 5)'
            )

    def of(self, latent: Tensor) -> Tensor:
        """The latent afterwards."""
        if self.action == "clamp":
            return torch.full_like(latent, self.value)
        return latent * self.value if self.action == "scale" else latent + self.value


@dataclass(frozen=True, eq=False)
class Splice(Intervention):
    """Put a coder in place of what it reconstructs.

    With the error kept, x becomes x + decode(f') - decode(f), where f are the latents and f' those after the
    edits: what the coder does not explain stays as it is, and without edits nothing changes, to the last bit. With
    the error dropped, x becomes decode(f') (and what a skip adds). A transcoder reads its input in the same pass.
    Latents are not selected again after an edit.

    Args:
        coder: the coder.
        error: "keep" or "drop".
        edits: what is done to latents; of several on one latent, one after another.
        largest_norm: positions whose input to the coder is longer are left as they are, as those are that a coder is
            not trained on (attention sinks). A length and no multiple of a median: so the rule is the same for a
            prompt, a batch, and a token that is generated alone. None leaves out none.

    Raises:
        UsageError: an edit of a latent that the coder lacks, or another error than these.

    Example:
        >>> import torch
        >>> from bathyscope.sae import Edit, KeepTop, SparseCoder, Splice
        >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(1))
        >>> x = torch.tensor([[1.0, 5.0, 2.0]])
        >>> Splice(coder, edits=[Edit(1, "clamp", 7.0)]).apply(x).tolist()
        [[1.0, 7.0, 2.0]]
        >>> Splice(coder, error="drop").apply(x).tolist()
        [[0.0, 5.0, 0.0]]
    """

    coder: SparseCoder
    error: Error = "keep"
    edits: Sequence[Edit] = ()
    largest_norm: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))
        if self.error not in get_args(Error):
            raise UsageError(f"error={self.error!r} was given", "it is 'keep' or 'drop'", "error='keep'")
        for edit in self.edits:
            if edit.latent >= self.coder.n_latents:
                raise UsageError(
                    f"an edit of latent {edit.latent} was given", f"the coder has 0 to {self.coder.n_latents - 1}"
                )
        if self.largest_norm is not None and not self.largest_norm > 0:
            raise UsageError(f"largest_norm={self.largest_norm} was given", "a length above 0, or None")

    @property
    @override
    def reads(self) -> Site | None:
        return self.coder.site if self.coder.is_transcoder else None

    def write(
        self,
        model: Model,
        *,
        position: int | tuple[int, ...] | None = None,
        row: int | None = None,
        when: When = "always",
    ) -> Write:
        """The splice at the coder's own place in a model, having made sure that it is for this model.

        Args:
            model: the model.
            position: token indices of the prompt, or None for all.
            row: which prompt of a batch, or None for every one.
            when: "prompt", "generated" or "always"; in a run without generation all three but the second are alike.

        Raises:
            UsageError: the coder is for other weights, or for a site that the model lacks.
        """
        return Write(self.coder.check(model)[1], self, position, row, when)

    @override
    def apply(self, activation: Tensor) -> Tensor:
        if self.coder.is_transcoder:
            raise InterventionError(
                f"a transcoder was to be applied to {self.coder.target} alone",
                f"it computes it from {self.coder.site}",
                "Splice(...).write(model)",
            )
        return self.apply_given(activation, activation)

    @override
    def apply_given(self, activation: Tensor, read: Tensor) -> Tensor:
        if self.error == "keep" and not self.edits:
            self._check(read, self.coder.d_in)  # and nothing else: what would be added is zero
            self._check(activation, self.coder.d_out)
            return activation
        x, y = self._check(read, self.coder.d_in), self._check(activation, self.coder.d_out)
        code = self.coder.encode(x)
        after = self._delta(code)
        after = after + (y if self.error == "keep" else self.coder.reconstruct(x, code))
        if self.largest_norm is not None:
            after = torch.where(x.norm(dim=1, keepdim=True, dtype=after.dtype) > self.largest_norm, y, after)
        return after.to(activation.dtype).view_as(activation)

    def _delta(self, code: Code) -> Tensor:
        """What the edits change in the reconstruction, (rows, d_out): decode(f') - decode(f)."""
        latents = sorted({edit.latent for edit in self.edits})
        before = {one: (code.values * (code.indices == one)).sum(1) for one in latents}
        after = dict(before)
        for edit in self.edits:
            after[edit.latent] = edit.of(after[edit.latent])
        change = code.values.new_zeros(len(code), self.coder.d_out)
        for one in latents:
            change = change + (after[one] - before[one])[:, None] * self.coder.decoder[one].to(change)
        return change if code.frame is None else change * code.frame[:, 1:]

    def _check(self, activation: Tensor, width: int) -> Tensor:
        """Activations of a site, (positions, ...site shape), as a coder has them: heads side by side."""
        flat = activation.flatten(1)
        if flat.shape[1] != width:
            raise InterventionError(
                f"a coder of width {width} was spliced into activations of shape {tuple(activation.shape)}",
                f"the numbers of one position must be {width}",
                "Splice(...).write(model), which is its own site",
            )
        return flat

    @override
    def _digest(self) -> str:
        # A coder's repr does not say its weights.
        said = (self.coder.fingerprint, str(self.coder.site), str(self.coder.target))
        content = (*said, self.error, self.edits, self.largest_norm)
        return hashlib.sha256(f"{type(self).__qualname__}|{content!r}".encode()).hexdigest()
