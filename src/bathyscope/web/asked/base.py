"""What all questions share: their limits, the model that is named, how they are run, and how they are typed."""

import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from bathyscope.engine import Plan, Stop
from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.store import Store
from bathyscope.web.models import Models
from bathyscope.web.worker import Job

BUDGET = 128 * 2**20
"""Bytes that a batch may take: some 80 rows of the embedded model, whose decoding step is a third of a second, so that
the first words and the end of a cancelled run are not waited for; a whole grid takes a fifth longer for it."""
MOST_CELLS = 8192

Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Layers = Annotated[str, Field(min_length=1, max_length=400)]
At = Annotated[str, Field(min_length=1, max_length=400)] | Annotated[int, Field(ge=-100_000, le=100_000)]


@dataclass(frozen=True)
class Running:
    """What a question is answered with.

    Args:
        models: those that were named at the start.
        store: where finished cells are kept.
        job: who is told.
    """

    models: Models
    store: Store
    job: Job

    @property
    def stop(self) -> Stop:
        """What ends it early."""
        return self.job.stop

    def progress(self, done: float, of: float) -> None:
        """Tell how much is done."""
        self.job.tell("progress", done=done, of=of)

    def planned(self, plan: Plan) -> None:
        """Refuse what would take too long, before anything is run.

        Raises:
            UsageError: there are too many cells.
        """
        if len(plan.cells) > MOST_CELLS:
            given = f"{len(plan.cells):,} cells were asked for"
            raise UsageError(given, f"a page shows at most {MOST_CELLS:,}", "fewer layers or tokens")


class Asked(BaseModel, ABC):
    """One question; what it does not know is refused.

    Args:
        model: one of those that were named when the server was started; the first unless said.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    command: ClassVar[str]

    model: Annotated[str, Field(max_length=400)] | None = None

    @abstractmethod
    def run(self, running: Running) -> Result:
        """Answer it."""

    @abstractmethod
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        """What is typed after the command: texts, and options by name; what is as usual is left out."""

    @abstractmethod
    def python(self, models: Models) -> str:
        """The lines of Python that ask the same."""

    def served(self, models: Models) -> str | None:
        """The model that is asked; that of a circuit or a coder where the question is about one."""
        del models
        return self.model

    def of_cell(self, layer: int, position: int) -> "Asked":
        """The same question of one cell."""
        return self.model_copy(update={"layers": str(layer), "at": position})

    def shell(self, models: Models) -> str:
        """The command that asks the same.

        Example:
            >>> from bathyscope.web.asked.patchscope import PatchscopeAsked
            >>> from bathyscope.web.models import Models
            >>> PatchscopeAsked(text="Marie Curie", at=2, layers="3").shell(Models({}))
            "bathyscope patchscope 'Marie Curie' --at 2 --layers 3"
        """
        texts, options = self.arguments(models)
        options = {**options, "--model": models.argument(self.served(models))}
        typed = [part for name, value in options.items() for part in _option(name, value)]
        dashed = any(text.startswith("-") for text in texts)
        words = [*typed, "--", *texts] if dashed else [*texts, *typed]
        return " ".join(map(_quoted, ["bathyscope", *self.command.split(), *words]))


def refuse_other(asked: str | None, own: str, what: str) -> None:
    """Refuse a model that is not the one that a circuit or a coder is for.

    Raises:
        UsageError: another one was named.
    """
    if asked not in (None, own):
        raise UsageError(f"model {asked[:80]!r} was named", f"the {what} is for {own}", "no model")


def loading(models: Models, name: str | None, called: str = "model") -> str:
    """The line of Python that loads a model."""
    named = models.argument(name)
    return f"{called} = bathyscope.load({'' if named is None else repr(named)})"


def _quoted(word: str) -> str:
    """A word as a shell reads it; what cannot be seen is written as an escape, so that it can be copied from a page."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (_escaped(one) if not one.isprintable() or one in "\\'" else one for one in word)
    return f"$'{''.join(escaped)}'"


def _escaped(one: str) -> str:
    return f"\\{one}" if one in "\\'" else f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"


def _option(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [part for one in value for part in _option(name, one)]
    if value is True:
        return [name]
    # A value that begins with a dash is told from an option by the sign between.
    return [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]
