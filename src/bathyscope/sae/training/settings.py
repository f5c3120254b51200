"""Settings: the numbers of a training that every kind of coder has, and how its learning rate goes."""

from dataclasses import dataclass
from typing import Final

from bathyscope.errors import UsageError

RATE: Final = 3e-3
"""Learning rate of a coder with `AT_LATENTS` latents; see `docs/sparse-coders.md` for others that were tried."""
AT_LATENTS: Final = 4096


@dataclass(frozen=True)
class Settings:
    """How coders are trained.

    Args:
        epochs: how many times the activations are gone through.
        batch_size: tokens of a step.
        learning_rate: of Adam; None for `RATE`, less by the root of how many more than 4,096 latents there are.
            JumpReLU's thresholds have one of their own.
        warm_up: share of the training over which the rate grows.
        decay: share of the training, at its end, over which the rate falls to 0.
        dead_after: tokens of silence after which a latent is dead; None for 10 million, or a quarter of an epoch
            where that is less.
        seed: of the start and of the order.
        half: whether bfloat16 decides which latents are candidates for the largest; how active they are, and which
            of the candidates are kept, is float32's alone. True is several times quicker on processors with
            instructions for it. Coders of one seed and one `half` are one; None measures once, and what was found
            is written into the checkpoint, which goes on with it, and into the coder's `training`. Sparsities
            that select no fixed number of latents do not ask.

    Example:
        >>> from bathyscope.sae import Settings
        >>> [round(Settings(warm_up=0.1, decay=0.5).pace(share), 2) for share in (0.05, 0.3, 0.75, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
    """

    epochs: int = 1
    batch_size: int = 2048
    learning_rate: float | None = None
    warm_up: float = 0.05
    decay: float = 0.5
    dead_after: int | None = None
    seed: int = 0
    half: bool | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(f"epochs={self.epochs}, batch_size={self.batch_size} were given", "at least 1 of each")
        rate = self.learning_rate
        if rate is not None and not rate > 0:
            raise UsageError(f"learning_rate={rate} was given", "a number above 0", f"learning_rate={RATE}")
        if not (0 <= self.warm_up < 1 and 0 <= self.decay <= 1 and self.warm_up + self.decay <= 1):
            raise UsageError(
                f"warm_up={self.warm_up}, decay={self.decay} were given", "shares of the training, together at most 1"
            )
        if self.dead_after is not None and self.dead_after < 1:
            raise UsageError(f"dead_after={self.dead_after} was given", "a number of tokens from 1")

    def rate_of(self, n_latents: int) -> float:
        """The learning rate of a coder with so many latents."""
        given = self.learning_rate
        return RATE * min(1.0, (AT_LATENTS / n_latents) ** 0.5) if given is None else given

    def pace(self, share: float) -> float:
        """What of the learning rate holds when a share of the training is done."""
        rising = share / self.warm_up if self.warm_up else 1.0
        falling = (1 - share) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rising, falling))

    def silent_for(self, n_tokens: int) -> int:
        """After how many tokens a latent is dead, where an epoch has so many."""
        return self.dead_after or max(1, min(10_000_000, n_tokens // 4))
