"""Learner: one coder while it is trained: its weights, Adam, what is dead, what has been measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.sae.code import KeepAbove, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.training.dead import Silence, revive
from bathyscope.sae.training.settings import Settings
from bathyscope.sae.training.sparsity import Moment, Sparsity, squares
from bathyscope.sae.training.weights import Scaling, Weights, autoencoder_start, transcoder_start, unit_rows
from bathyscope.sites import Site

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-10
"""Of Adam: gradients of a mean over thousands of tokens are small."""

EVERY: Final = 20
"""Steps between two measurements that are kept."""


@dataclass(frozen=True)
class CoderConfig:
    """A coder that is to be trained.

    Args:
        site: what is encoded.
        sparsity: how its codes become sparse.
        n_latents: how many latents it has.
        target: what a transcoder reconstructs; None for an autoencoder.
        skip: whether a transcoder has a linear path beside its latents.
    """

    site: Site
    sparsity: Sparsity
    n_latents: int
    target: Site | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "target", None if self.target is None else Site.parse(self.target))
        if self.skip and self.target is None:
            raise UsageError("a skip was asked for without a target", "only a transcoder has a path past its latents")
        if self.n_latents < 1:
            raise UsageError(f"n_latents={self.n_latents} was given", "at least 1")

    @property
    def sites(self) -> tuple[Site, Site]:
        """What is encoded, and what is reconstructed."""
        return self.site, self.site if self.target is None else self.target

    def spec(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "site": str(self.site),
            "target": str(self.sites[1]),
            "n_latents": self.n_latents,
            "skip": self.skip,
            **self.sparsity.spec(),
        }


@dataclass(frozen=True)
class Measured:
    """What a stretch of steps had on average.

    Args:
        tokens: tokens seen until its end.
        loss: what was minimised.
        fvu: share of the variance that is missed.
        l0: active latents of a token.
        dead: dead latents at its end.
    """

    tokens: int
    loss: float
    fvu: float
    l0: float
    dead: int


class Learner:
    """One coder in training.

    Args:
        asked: which coder.
        scalings: of what it encodes, and of what it reconstructs.
        settings: the numbers of the training.
        dead_after: tokens of silence after which a latent is dead.
        half: whether bfloat16 decides which latents are candidates, where the sparsity selects so many.
    """

    def __init__(
        self, asked: CoderConfig, scalings: tuple[Scaling, Scaling], settings: Settings, dead_after: int, *, half: bool
    ) -> None:
        self.asked, self.settings, self.dead_after = asked, settings, dead_after
        self.half = half and asked.sparsity.coarse
        self.source, self.target = scalings
        d_in, d_out = (len(scaling.mean) for scaling in scalings)
        generator = torch.Generator().manual_seed(settings.seed)
        if asked.target is None:
            start = autoencoder_start(asked.n_latents, d_in, generator)
        else:
            start = transcoder_start(asked.n_latents, d_in, d_out, generator, skip=asked.skip)
        self.weights = Weights({**start, **asked.sparsity.trained(asked.n_latents)}, asked.sparsity.kept())
        self.rate = settings.rate_of(asked.n_latents)
        own, names = asked.sparsity.rates, self.weights.trained.items()
        self.rates = tuple(dict.fromkeys(own.get(name, self.rate) for name, _ in names))
        groups = [{"params": [one for name, one in names if own.get(name, self.rate) == rate]} for rate in self.rates]
        self.adam = torch.optim.Adam(groups, lr=self.rate, betas=BETAS, eps=EPSILON, fused=True)
        self.silence = Silence.none(asked.n_latents)
        self.step, self.tokens = 0, 0
        self.history: list[Measured] = []
        self._sums = torch.zeros(4, dtype=torch.float64)

    def learn(self, x: Tensor, y: Tensor, share: float) -> None:
        """One step.

        Args:
            x: what is encoded, (rows, d_in), as the model has it.
            y: what is reconstructed, (rows, d_out).
            share: what of the training will be done after it, 0 to 1.
        """
        scaled = self.source.apply(x)
        wanted = scaled if y is x else self.target.apply(y)
        self.adam.zero_grad()
        found = self.asked.sparsity.learn(self.weights, scaled, wanted, Moment(self.step, share, self.half))
        self.silence.hear(found.active, len(x))
        dead = self.silence.dead(self.dead_after)
        loss = found.loss
        if len(dead):
            most = max(1, wanted.shape[1] // 2)
            loss = loss + revive(self.weights, scaled, found.residual, dead, most, self.asked.sparsity.bias)
        self._descend(share)
        self.step, self.tokens = self.step + 1, self.tokens + len(x)
        missed = squares(found.residual) / len(x)
        self._sums += torch.stack([loss, missed, found.active.sum() / len(x), loss.new_ones(())]).double()
        if self.step % EVERY == 0 or share >= 1:
            self._measure(len(dead))

    @torch.no_grad()
    def _descend(self, share: float) -> None:
        decoder = self.weights.trained["decoder"]
        grad = decoder.grad
        assert grad is not None
        # Rows keep their length: what would only change it is taken out first, or Adam would remember it.
        grad.addcmul_(torch.linalg.vecdot(grad, decoder)[:, None], decoder, value=-1)
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.settings.pace(share)
        self.adam.step()
        decoder.div_(decoder.norm(dim=-1, keepdim=True))

    def _measure(self, n_dead: int) -> None:
        loss, fvu, l0, n = self._sums.tolist()
        self.history.append(Measured(self.tokens, loss / n, fvu / n, l0 / n, n_dead))
        self._sums.zero_()

    def coder(self, model: Mapping[str, Any], training: Mapping[str, Any]) -> SparseCoder:
        """The coder as it is now, of activations as the model has them; its decoder's rows have length 1.

        Args:
            model: what it was trained on (`model_identity`).
            training: what is kept of how.
        """
        encoder, bias = self.asked.sparsity.encoder(self.weights)
        # A latent's value has the units of what is reconstructed: pre-activations of scaled inputs, made longer.
        longer = self.target.length
        decoder_bias = self.target.mean + self.weights["decoder_bias"].detach() * longer
        skip = self.weights.skip
        if skip is not None:
            skip = skip.detach() * (longer / self.source.length)
            decoder_bias = decoder_bias - self.source.mean @ skip
        return SparseCoder(
            encoder=encoder * (longer / self.source.length),
            encoder_bias=bias * longer,
            decoder=unit_rows(self.weights["decoder"].detach()),
            decoder_bias=decoder_bias,
            selection=_longer(self.asked.sparsity.selection(self.weights), longer),
            centre=self.source.mean,
            skip=skip,
            site=self.asked.site,
            target=self.asked.sites[1],
            model=model,
            training={**self.asked.spec(), **({"half": self.half} if self.asked.sparsity.coarse else {}), **training},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        found = {f"weights.{name}": tensor for name, tensor in self.weights.tensors().items()}
        for name, weight in self.weights.trained.items():
            for part, tensor in self.adam.state[weight].items():
                found[f"adam.{part}.{name}"] = tensor
        history = [[one.tokens, one.loss, one.fvu, one.l0, one.dead] for one in self.history]
        return {
            **found,
            "silence": self.silence.tokens,
            "sums": self._sums,
            "history": torch.tensor(history, dtype=torch.float64).reshape(-1, 5),
            "counts": torch.tensor([self.step, self.tokens]),
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        for name, weight in self.weights.trained.items():
            weight.copy_(tensors[f"weights.{name}"])
            state = {part: tensors.get(f"adam.{part}.{name}") for part in ("step", "exp_avg", "exp_avg_sq")}
            # Adam has none before its first step.
            self.adam.state[weight] = {part: one.clone() for part, one in state.items() if one is not None}
        self.weights.kept = {name: tensors[f"weights.{name}"].clone() for name in self.weights.kept}
        self.silence = Silence(tensors["silence"].clone())
        self._sums = tensors["sums"].clone()
        self.history = [
            Measured(int(tokens), loss, fvu, l0, int(dead))
            for tokens, loss, fvu, l0, dead in tensors["history"].tolist()
        ]
        self.step, self.tokens = (int(count) for count in tensors["counts"])


def _longer(selection: Selection, factor: float) -> Selection:
    return KeepAbove(selection.threshold * factor) if isinstance(selection, KeepAbove) else selection
