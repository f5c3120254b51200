"""Losses: what the model says next with a coder in place, beside what it says with zero or the mean there.

Every arm begins at the block that it changes, with what the clean run holds there. Sinks and special
tokens stay unspliced in all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from bathyscope.batches import Batch
from bathyscope.bypass import Sleepers, can_bypass
from bathyscope.engine.partition import wake_block
from bathyscope.fitting.agreement import log_probabilities
from bathyscope.forward import Activations
from bathyscope.hooks import Hooks
from bathyscope.interventions import Ablate, Intervention, Write
from bathyscope.model import HALF, Model, Tokens
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.places import Place
from bathyscope.sae.splice import Splice
from bathyscope.sites import residual_site

ARMS: Final = ("spliced", "zero", "mean")

ROWS: Final = 128
"""Positions whose logits are made together: those of a whole batch would fill the memory."""


@dataclass(frozen=True)
class Loss:
    """What a coder costs the model, in nats a token. None: an arm costs nothing that could be recovered.

    Args:
        n: predicted tokens.
        ce_clean: cross-entropy of the untouched model.
        ce_spliced: with the reconstruction in place, its error dropped, at all positions but sinks and special tokens.
        ce_zero: with zero there instead.
        ce_mean: with the mean there instead.
        mean_of: whose mean: "fit", what the coder was trained on, or "measured", the tokens that it is measured on.
        loss_recovered: (ce_zero - ce_spliced) / (ce_zero - ce_clean).
        loss_recovered_mean: (ce_mean - ce_spliced) / (ce_mean - ce_clean).
        delta_ce: ce_spliced - ce_clean.
        kl_spliced: KL divergence of what the spliced model says from what the clean one does.
        kl_zero: of what it says with zero there.
        kl_recovered: 1 - kl_spliced / kl_zero.
    """

    n: int
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    ce_mean: float
    mean_of: Literal["fit", "measured"]
    loss_recovered: float | None
    loss_recovered_mean: float | None
    delta_ce: float
    kl_spliced: float
    kl_zero: float
    kl_recovered: float | None


@dataclass(eq=False)
class Spliced:
    """A coder that is measured in place, and the sums of its arms.

    Args:
        place: the coder, and where it belongs.
        wake: the first block that an arm computes.
        mean: what the arm "mean" writes, (d_out,).
        mean_of: whose mean.
    """

    place: Place
    wake: int
    mean: Tensor
    mean_of: Literal["fit", "measured"]
    ce: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ARMS, 0.0))
    kl: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ARMS, 0.0))

    @classmethod
    def of(cls, model: Model, place: Place, measured: Tensor) -> "Spliced":
        """A coder in a model, with the mean of its fit where it says it, else the measured one, (d_out,)."""
        coder, wake = place.coder, min(wake_block(site, model.n_layers) for site in (place.site, place.target))
        wake = wake if can_bypass(model) else 0
        if coder.centre is not None and not (coder.is_transcoder or coder.normed) and fitted_mean(coder):
            return cls(place, wake, coder.centre, "fit")
        return cls(place, wake, measured, "measured")

    def writes(self, read: Activations, windows: Sequence[Tokens]) -> dict[str, list[Write]]:
        """What each arm writes into windows that have been read, sinks and special tokens left as they are."""
        target = self.place.target
        what: dict[str, Intervention] = {
            "spliced": Splice(self.place.coder, error="drop"),
            "zero": Ablate(),
            "mean": Ablate(self.mean.reshape(read[target][0].shape[1:])),
        }
        rows = [tuple(kept.nonzero()[:, 0].tolist()) for kept in self.place.usable(read, windows)]
        return {
            arm: [Write(target, one, positions, row) for row, positions in enumerate(rows) if positions]
            for arm, one in what.items()
        }

    def result(self, n: int, clean: float) -> Loss:
        """What the sums say of `n` predictions, whose clean cross-entropies add up to `clean`."""
        ce, kl = ({arm: total / n for arm, total in sums.items()} for sums in (self.ce, self.kl))
        clean = clean / n
        return Loss(
            n=n,
            ce_clean=clean,
            ce_spliced=ce["spliced"],
            ce_zero=ce["zero"],
            ce_mean=ce["mean"],
            mean_of=self.mean_of,
            loss_recovered=_share(ce["zero"] - ce["spliced"], ce["zero"] - clean),
            loss_recovered_mean=_share(ce["mean"] - ce["spliced"], ce["mean"] - clean),
            delta_ce=ce["spliced"] - clean,
            kl_spliced=kl["spliced"],
            kl_zero=kl["zero"],
            kl_recovered=_share(kl["zero"] - kl["spliced"], kl["zero"]),
        )


def fitted_mean(coder: SparseCoder) -> bool:
    """Whether a coder's centre is, as its training says, the mean of what it was trained on."""
    return coder.training.get("centre") == "mean"


@dataclass(eq=False)
class Losses:
    """The arms of several coders on the same windows, which share the clean run.

    Args:
        model: the model.
        spliced: the coders.
        ticked: called with the tokens of each pass.
    """

    model: Model
    spliced: Sequence[Spliced]
    ticked: Callable[[int], None]
    n: int = 0
    clean: float = 0.0

    def add(self, windows: Sequence[Tokens]) -> None:
        """Take in windows of one length, which run together."""
        last = residual_site(self.model.n_layers - 1)
        starts = {one.wake: residual_site(one.wake - 1) for one in self.spliced if one.wake}
        reads = {*starts.values(), *(site for one in self.spliced for site in one.place.reads), last}
        batch = Batch(self.model, windows)
        with torch.no_grad(), Hooks(self.model, batch.window, reads=[*reads]) as hooks:
            batch.last()
        hooks.check()
        read, tuples = Activations({site: tuple(hooks.activations(site)) for site in reads}), hooks.in_tuple(last)
        self.ticked(sum(map(len, windows)))
        states: dict[tuple[int, str], Tensor] = {}
        for number, one in enumerate(self.spliced):
            start = torch.stack(read[starts[one.wake]]) if one.wake else None
            for arm, writes in one.writes(read, windows).items():
                states[number, arm] = self._state(windows, one.wake, start, writes, tuples=tuples)
                self.ticked(sum(map(len, windows)))
        self._compare(windows, torch.stack(read[last]), states)

    def _state(
        self, windows: Sequence[Tokens], wake: int, start: Tensor | None, writes: Sequence[Write], *, tuples: bool
    ) -> Tensor:
        """The residual stream behind the last block, (windows, positions, d_model), in a run that wakes at a block."""
        last, batch = residual_site(self.model.n_layers - 1), Batch(self.model, windows)
        asleep = nullcontext()
        if start is not None:
            asleep = Sleepers(self.model, [wake] * len(windows), {wake - 1: start}, tuples=tuples)
        with torch.no_grad(), asleep, Hooks(self.model, batch.window, reads=[last], writes=writes) as hooks:
            batch.last()
        hooks.check()
        return torch.stack(hooks.activations(last))

    def _compare(self, windows: Sequence[Tokens], clean: Tensor, states: Mapping[tuple[int, str], Tensor]) -> None:
        """Add up cross-entropies and divergences of each position's prediction of the next token."""
        tokens = torch.tensor([window.ids for window in windows], device=clean.device)[:, 1:].flatten()
        self.n += len(tokens)
        for rows in torch.arange(len(tokens), device=clean.device).split(ROWS):
            own = self._log_probabilities(clean, rows)
            share, following = own.exp(), tokens[rows, None]
            self.clean -= float(own.gather(1, following).double().sum())
            entropy = float(torch.linalg.vecdot(share, own).double().sum())
            for (number, arm), state in states.items():
                found, one = self._log_probabilities(state, rows), self.spliced[number]
                one.ce[arm] -= float(found.gather(1, following).double().sum())
                one.kl[arm] += entropy - float(torch.linalg.vecdot(share, found).double().sum())

    def _log_probabilities(self, state: Tensor, rows: Tensor) -> Tensor:
        """What is said at some of the positions that are followed by another, (rows, d_vocab), float32 or finer."""
        state = state[:, :-1].flatten(0, 1)[rows]
        with torch.no_grad():
            if self.model.dtype in HALF:
                every = torch.arange(len(self.model.unembedding.weight), device=state.device)
                return log_probabilities(self.model.token_logits(self.model.last_hidden(state), every))
            return log_probabilities(self.model.unembed(state))

    def results(self) -> list[Loss]:
        """What was measured of each coder."""
        return [one.result(self.n, self.clean) for one in self.spliced]


def _share(gained: float, possible: float) -> float | None:
    return gained / possible if possible else None
