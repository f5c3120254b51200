"""A lens: what every layer holds at every token, as likeliest next tokens."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

import bathyscope
from bathyscope.engine import Plan
from bathyscope.results import Result
from bathyscope.web.asked.base import BUDGET, Asked, At, Layers, Running, Text, loading
from bathyscope.web.models import Models
from bathyscope.web.telling import Teller, grid_of

LensName = Literal["logit-lens", "token-identity", "bare-placeholder"]
"""Those that need no fitted mapping."""


class LensAsked(Asked):
    """A text through a lens.

    Args:
        lens: which.
        text: what is read.
        at: at which tokens.
        layers: after which layers.
        top: how many of the likeliest tokens are kept.
    """

    command: ClassVar[str] = "lens"

    kind: Literal["lens"] = "lens"
    lens: LensName = "logit-lens"
    text: Text
    at: At = "all"
    layers: Layers = "all"
    top: Annotated[int, Field(ge=1, le=20)] = 5

    @override
    def run(self, running: Running) -> Result:
        model = running.models.named(self.model)
        teller: list[Teller] = []

        def planned(plan: Plan) -> None:
            running.planned(plan)
            running.job.tell("plan", **grid_of(plan, model, self.text))
            teller.append(Teller(running.job, len(plan.cells)))

        look = getattr(bathyscope.lenses, self.lens.replace("-", "_"))
        return look(
            model,
            self.text,
            position=self.at,
            layer=self.layers,
            k=self.top,
            budget=BUDGET,
            stop=running.stop,
            planned=planned,
            listen=lambda plan, event: teller[0].listen(plan, event),
        )

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        return [self.lens, self.text], {
            "--at": None if self.at == "all" else self.at,
            "--layers": None if self.layers == "all" else self.layers,
            "--top": None if self.top == 5 else self.top,
        }

    @override
    def python(self, models: Models) -> str:
        name, chosen = self.lens.replace("-", "_"), f"position={self.at!r}, layer={self.layers!r}, k={self.top}"
        lines = [
            "import bathyscope",
            "",
            loading(models, self.model),
            f"result = bathyscope.lenses.{name}(model, {self.text!r}, {chosen})",
            "for cell in result.cells:",
            "    print(cell.layer, repr(cell.token), [(one.token, one.probability) for one in cell.candidates])",
        ]
        return "\n".join(lines)
