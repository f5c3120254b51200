"""Steering with a latent: what the model writes with and without it, and with a random direction instead."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.sae import SparseCoder, latent_direction
from bathyscope.steering import steer
from bathyscope.web.asked.base import Asked, Running, Text, loading, refuse_other
from bathyscope.web.models import Models
from bathyscope.web.opened import NAME

Factor = Annotated[float, Field(ge=-10_000, le=10_000)]


class SteerAsked(Asked):
    """What a model writes while a latent's direction is added at every token.

    Args:
        coder: one of those that were named when the server was started.
        latent: its number.
        text: what the model reads.
        factors: by how much more active the latent is made, each a text of its own.
        new_tokens: how many tokens are written.
    """

    command: ClassVar[str] = "steer"

    kind: Literal["steer"] = "steer"
    coder: Annotated[str, Field(pattern=NAME)]
    latent: Annotated[int, Field(ge=0, le=10_000_000)]
    text: Text
    factors: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=4)]
    new_tokens: Annotated[int, Field(ge=1, le=64)] = 20

    @override
    def run(self, running: Running) -> Result:
        coder = self._coder(running.models)
        model = running.models.named(self.served(running.models))
        direction = latent_direction(model, coder, self.latent)
        chosen = {"factors": self.factors, "new_tokens": self.new_tokens}
        return steer(model, self.text, direction, **chosen, progress=running.progress, stop=running.stop)

    @override
    def served(self, models: Models) -> str | None:
        self._coder(models)
        return models.coder(self.coder).model

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        self._coder(models)
        return [self.text], {
            "--coder": models.coder(self.coder).path,
            "--latent": self.latent,
            "--factors": ",".join(f"{one:.6f}".rstrip("0").rstrip(".") for one in self.factors),
            "--new-tokens": None if self.new_tokens == 20 else self.new_tokens,
        }

    @override
    def python(self, models: Models) -> str:
        lines = [
            "import bathyscope",
            "from bathyscope.sae import latent_direction, load_coder",
            "from bathyscope.steering import steer",
            "",
            loading(models, self.served(models)),
            f"direction = latent_direction(model, load_coder({models.coder(self.coder).path!r}), {self.latent})",
            f"result = steer(model, {self.text!r}, direction, factors={self.factors!r}, new_tokens={self.new_tokens})",
            "for one in result.texts:",
            "    print(one.direction, one.factor, repr(one.text))",
        ]
        return "\n".join(lines)

    def _coder(self, models: Models) -> SparseCoder:
        """The coder itself.

        Raises:
            UsageError: only what a text says of it was named.
        """
        opened = models.coder(self.coder)
        if opened.coder is None or opened.model is None:
            raise UsageError(f"{self.coder} is only looked at", "the coder itself", "bathyscope serve --coder DIR")
        refuse_other(self.model, opened.model, "coder")
        return opened.coder
