"""A lens: what every layer holds at every token, as likeliest next tokens or in words."""

from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import Field
from typing_extensions import override

import bathyscope
from bathyscope.engine import Plan
from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.soft_prompts import SoftPrompt
from bathyscope.web.asked.base import BUDGET, Asked, At, Layers, Running, Text, loading, refuse_other
from bathyscope.web.models import Models
from bathyscope.web.opened import NAME, OpenedMapping
from bathyscope.web.telling import Teller, grid_of, tokens_of

PlainLens = Literal["logit-lens", "token-identity", "bare-placeholder", "selfie", "future-lens", "backward-lens"]
FittedLens = Literal["tuned-lens", "jacobian-lens", "linear-shortcut", "attribute-lens"]
PLAIN: Final[tuple[str, ...]] = get_args(PlainLens)
"""Those that need no fitted mapping."""
GRADIENTS: Final = "backward-lens"
WORDS: Final = {"selfie": ("new_tokens", "--new-tokens"), "future-lens": ("n_ahead", "--ahead")}
"""Those that write a text, and how its length is said in Python and in the shell."""
MOST_GRADIENT_TOKENS: Final = 64
"""Tokens of a prompt whose gradients are wanted: they come from one pass, which nothing can stop."""


class LensAsked(Asked):
    """A text through a lens.

    Args:
        lens: which.
        mapping: what it looks through, where that is fitted: one of those named when the server was started.
        text: what is read.
        at: at which tokens; with "backward-lens" at all.
        layers: after which layers; "all" are those that the mapping was fitted for.
        top: how many of the likeliest tokens are kept, by lenses that rank them.
        new_tokens: how many tokens are written, by lenses that write.
        token: the next token that "backward-lens" pushes for; the likeliest unless said.
        keep: whether finished cells are kept in the store, which takes longer than many a lens does.
    """

    command: ClassVar[str] = "lens"

    kind: Literal["lens"] = "lens"
    lens: PlainLens | FittedLens = "logit-lens"
    mapping: Annotated[str, Field(pattern=NAME)] | None = None
    text: Text
    at: At = "all"
    layers: Layers = "all"
    top: Annotated[int, Field(ge=1, le=20)] = 5
    new_tokens: Annotated[int, Field(ge=1, le=64)] = 8
    token: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    keep: bool = False

    @override
    def run(self, running: Running) -> Result:
        model = running.models.named(self.model)
        through, chosen = self._checked(running.models), self._chosen(running.models)
        look = getattr(bathyscope.lenses, self.lens.replace("-", "_"))
        if self.lens == GRADIENTS:
            tokens = tokens_of(model, self.text)
            if len(tokens) > MOST_GRADIENT_TOKENS:
                raise UsageError(
                    f"{len(tokens)} tokens were asked for", f"a page takes gradients of {MOST_GRADIENT_TOKENS}"
                )
            running.job.tell("plan", tokens=tokens, cells=[])
            return look(model, self.text, **chosen)
        teller: list[Teller] = []

        def planned(plan: Plan) -> None:
            running.planned(plan)
            running.job.tell("plan", **grid_of(plan, model, self.text))
            teller.append(Teller(running.job, len(plan.cells)))

        given = {self._mapping_as: through.mapping} if through else {}
        store = running.store if self.keep else None
        options = {"budget": BUDGET, "stop": running.stop, "planned": planned, "store": store}
        heard = {"listen": lambda plan, event: teller[0].listen(plan, event)}
        return look(model, self.text, **given, **chosen, **options, **heard)

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        through, everywhere = self._checked(models), self.lens == GRADIENTS
        words = {WORDS[self.lens][1]: self.new_tokens} if self._writes(through) else {}
        return [self.lens, self.text], {
            "--mapping": through.path if through else None,
            "--at": None if self.at == "all" or everywhere else self.at,
            "--layers": None if self.layers == "all" else self.layers,
            "--top": None if self.top == 5 or not self._ranks(through) else self.top,
            "--token": self.token,
            "--store": True if self.keep else None,
            **words,
        }

    @override
    def python(self, models: Models) -> str:
        through = self._checked(models)
        called = [f"model, {self.text!r}", *(f"{name}={value!r}" for name, value in self._chosen(models).items())]
        opens = []
        if self.keep:
            called.append("store=Store()")
        if through:
            kind = type(through.mapping).__name__
            room = "bathyscope.soft_prompts" if kind == "SoftPrompt" else "bathyscope.mappings"
            opens = [f"from {room} import {kind}", f"fitted = {kind}.load({through.path!r})"]
            called.insert(1, f"{self._mapping_as}=fitted")
        shown = "(one.token, one.probability) for one in cell.candidates"
        lines = [
            "import bathyscope",
            *opens[:1],
            *(["from bathyscope.store import Store"] if self.keep else []),
            "",
            loading(models, self.model),
            *opens[1:],
            f"result = bathyscope.lenses.{self.lens.replace('-', '_')}({', '.join(called)})",
            "for cell in result.cells:",
            f"    print(cell.layer, repr(cell.token), {f'[{shown}]' if self._ranks(through) else 'cell.text'})",
        ]
        return "\n".join(lines)

    @property
    def _mapping_as(self) -> str:
        return "by" if self.lens == "future-lens" else "mapping"

    def _writes(self, through: OpenedMapping | None) -> bool:
        """Whether it writes a text of a length that is asked for; a linear future lens says one token."""
        return self.lens in WORDS and (through is None or isinstance(through.mapping, SoftPrompt))

    def _ranks(self, through: OpenedMapping | None) -> bool:
        return not self._writes(through)

    def _chosen(self, models: Models) -> dict[str, Any]:
        """What the lens's function is called with besides the model, the text, the mapping and how it is run."""
        through = self._checked(models)
        found: dict[str, Any] = {"layer": through.layers if through and self.layers == "all" else self.layers}
        if self.lens == GRADIENTS:
            return {**found, "k": self.top, "token": self.token}
        found["position"] = self.at
        if self._ranks(through):
            return {**found, "k": self.top}
        return {**found, WORDS[self.lens][0]: self.new_tokens}

    def _checked(self, models: Models) -> OpenedMapping | None:
        """The mapping that is looked through.

        Raises:
            UsageError: one is missing, is not served, or is for another lens or model; or a token is not pushed for.
        """
        if self.token is not None and self.lens != GRADIENTS:
            raise UsageError(f"a token was given to {self.lens}", f"only {GRADIENTS} pushes for one")
        if self.keep and self.lens == GRADIENTS:
            raise UsageError(f"{GRADIENTS} was to be kept", "what it reads are gradients, which are not stored")
        if self.mapping is None:
            if self.lens not in PLAIN:
                raise UsageError(
                    f"{self.lens} was asked for without a mapping",
                    "it is fitted to a model first",
                    "bathyscope serve --mapping FILE",
                )
            return None
        found = models.mapping(self.mapping)
        if found.lens != self.lens:
            fitted = f"it is for {found.lens}" if found.lens else f"it leads from {found.source} to {found.target}"
            raise UsageError(f"the mapping {self.mapping} was given to {self.lens}", fitted)
        refuse_other(models.known(self.model), found.source, "mapping")
        return found
