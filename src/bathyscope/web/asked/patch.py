"""Activation patching: what one run holds, written into another, place by place."""

from typing import Any, ClassVar, Literal

from typing_extensions import override

from bathyscope.causal import activation_patching
from bathyscope.readouts import LogitDiff
from bathyscope.results import Result
from bathyscope.web.asked.base import Asked, Layers, Running, Text, loading
from bathyscope.web.asked.causal import answered, options
from bathyscope.web.asked.trace import Component
from bathyscope.web.models import Models


class PatchAsked(Asked):
    """What of a clean run restores its answer in a corrupted one.

    Args:
        text: the clean prompt.
        corrupted: the other, of as many tokens.
        answer: the clean run's answer.
        wrong: the corrupted run's.
        component: what is written.
        layers: of which layers.
    """

    command: ClassVar[str] = "patch"

    kind: Literal["patch"] = "patch"
    text: Text
    corrupted: Text
    answer: Text
    wrong: Text
    component: Component = "resid_post"
    layers: Layers = "all"

    @override
    def run(self, running: Running) -> Result:
        model = running.models.named(self.model)
        metric = LogitDiff(answered(model, self.answer, self.text), answered(model, self.wrong, self.text))
        chosen = {"component": self.component, "layers": self.layers}
        return activation_patching(
            model, self.text, self.corrupted, metric, **chosen, **options(running, model, self.text)
        )

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        return [self.text, self.corrupted], {
            "--answer": self.answer,
            "--wrong-answer": self.wrong,
            "--site": None if self.component == "resid_post" else self.component,
            "--layers": None if self.layers == "all" else self.layers,
        }

    @override
    def python(self, models: Models) -> str:
        lines = [
            "import bathyscope",
            "from bathyscope.causal import activation_patching",
            "from bathyscope.readouts import LogitDiff, answer_token",
            "",
            loading(models, self.model),
            f"clean, corrupted = {self.text!r}, {self.corrupted!r}",
            f"answers = [answer_token(model, one, after=clean).id for one in ({self.answer!r}, {self.wrong!r})]",
            "result = activation_patching(",
            "    model, clean, corrupted, LogitDiff(*answers),",
            f"    component={self.component!r}, layers={self.layers!r},",
            ")",
            "print([(cell.place, cell.effect) for cell in result.strongest(5)])",
        ]
        return "\n".join(lines)
