"""What the causal questions share: how a metric's tokens are found, and how they are run and typed."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from typing_extensions import override

import bathyscope.causal
from bathyscope.engine import Plan
from bathyscope.readouts import LogitDiff, Probability, answer_token
from bathyscope.results import Result
from bathyscope.web.asked.base import BUDGET, Asked, Layers, Running, Text, loading
from bathyscope.web.models import Models
from bathyscope.web.telling import tokens_of

Component = Literal["resid_post", "mlp_out", "attn_out"]


class CausalAsked(Asked):
    """A text, an answer to it, and a causal method that says what makes the one the other's.

    Args:
        text: the prompt.
        answer: what is measured.
        layers: of which layers.
    """

    function: ClassVar[str]
    """The method's name in `bathyscope.causal`."""

    text: Text
    answer: Text
    layers: Layers = "all"

    @property
    @abstractmethod
    def prompts(self) -> dict[str, str]:
        """What it reads, by the name that lines of Python give it, in the order of the function's arguments."""

    @property
    @abstractmethod
    def chosen(self) -> dict[str, Any]:
        """The function's other arguments."""

    @property
    def wrong_answer(self) -> str | None:
        """What the answer is compared with; None measures its probability."""
        return None

    @override
    def run(self, running: Running) -> Result:
        model = running.models.named(self.model)

        def planned(plan: Plan) -> None:
            running.planned(plan)
            running.job.tell("plan", tokens=tokens_of(model, self.text), cells=[])

        options = {"store": running.store, "stop": running.stop, "budget": BUDGET, "planned": planned}
        metric = self._metric(*(answer_token(model, one, after=self.text).id for one in self._answers))
        method = getattr(bathyscope.causal, self.function)
        return method(model, *self.prompts.values(), metric, **self.chosen, **options)

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        del models
        return [self.text], {
            "--answer": self.answer,
            "--wrong-answer": self.wrong_answer,
            "--layers": None if self.layers == "all" else self.layers,
        }

    @override
    def python(self, models: Models) -> str:
        first, metric = next(iter(self.prompts)), self._metric.__name__
        ids = [f"answer_token(model, {one!r}, after={first}).id" for one in self._answers]
        chosen = ", ".join(f"{name}={value!r}" for name, value in self.chosen.items())
        lines = [
            "import bathyscope",
            f"from bathyscope.causal import {self.function}",
            f"from bathyscope.readouts import {metric}, answer_token",
            "",
            loading(models, self.model),
            *(f"{name} = {value!r}" for name, value in self.prompts.items()),
            f"metric = {metric}({', '.join(ids)})",
            f"result = {self.function}(model, {', '.join(self.prompts)}, metric, {chosen})",
            "print([(cell.place, cell.effect) for cell in result.strongest(5)])",
        ]
        return "\n".join(lines)

    @property
    def _answers(self) -> list[str]:
        return [self.answer] if self.wrong_answer is None else [self.answer, self.wrong_answer]

    @property
    def _metric(self) -> type[Probability | LogitDiff]:
        return Probability if self.wrong_answer is None else LogitDiff
