"""Attention knockout: edges cut, and what the answer loses."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from bathyscope.causal import attention_knockout
from bathyscope.readouts import Probability
from bathyscope.results import Result
from bathyscope.web.asked.base import Asked, Layers, Running, Text, loading
from bathyscope.web.asked.causal import answered, options
from bathyscope.web.models import Models


class KnockoutAsked(Asked):
    """What the last token has to look at.

    Args:
        text: the prompt.
        answer: whose probability is measured.
        layers: the middles of the windows.
        window: how many layers are cut together.
    """

    command: ClassVar[str] = "knockout"

    kind: Literal["knockout"] = "knockout"
    text: Text
    answer: Text
    layers: Layers = "all"
    window: Annotated[int, Field(ge=1, le=200)] = 9

    @override
    def run(self, running: Running) -> Result:
        model = running.models.named(self.model)
        metric = Probability(answered(model, self.answer, self.text))
        chosen = {"layers": self.layers, "window": self.window}
        return attention_knockout(model, self.text, metric, **chosen, **options(running, model, self.text))

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        return [self.text], {
            "--answer": self.answer,
            "--layers": None if self.layers == "all" else self.layers,
            "--window": self.window,
        }

    @override
    def python(self, models: Models) -> str:
        lines = [
            "import bathyscope",
            "from bathyscope.causal import attention_knockout",
            "from bathyscope.readouts import Probability, answer_token",
            "",
            loading(models, self.model),
            f"prompt = {self.text!r}",
            f"metric = Probability(answer_token(model, {self.answer!r}, after=prompt).id)",
            f"result = attention_knockout(model, prompt, metric, layers={self.layers!r}, window={self.window})",
            "print([(cell.place, cell.effect) for cell in result.strongest(5)])",
        ]
        return "\n".join(lines)
