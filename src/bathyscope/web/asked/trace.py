"""Causal tracing: a subject noised, and what restores the answer."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from bathyscope.causal import causal_tracing
from bathyscope.readouts import Probability
from bathyscope.results import Result
from bathyscope.web.asked.base import Asked, Layers, Running, Text, loading
from bathyscope.web.asked.causal import answered, options
from bathyscope.web.models import Models

Component = Literal["resid_post", "mlp_out", "attn_out"]


class TraceAsked(Asked):
    """Where a model recalls what it says of a subject.

    Args:
        text: the prompt.
        subject: its part that is noised.
        answer: whose probability is measured.
        component: what is put back.
        layers: of which layers.
        samples: draws of noise.
    """

    command: ClassVar[str] = "trace"

    kind: Literal["trace"] = "trace"
    text: Text
    subject: Text
    answer: Text
    component: Component = "resid_post"
    layers: Layers = "all"
    samples: Annotated[int, Field(ge=1, le=20)] = 3

    @override
    def run(self, running: Running) -> Result:
        model = running.models.named(self.model)
        metric = Probability(answered(model, self.answer, self.text))
        return causal_tracing(
            model,
            self.text,
            self.subject,
            metric,
            component=self.component,
            layers=self.layers,
            samples=self.samples,
            **options(running, model, self.text),
        )

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        return [self.text], {
            "--subject": self.subject,
            "--answer": self.answer,
            "--site": self.component,
            "--layers": None if self.layers == "all" else self.layers,
            "--samples": self.samples,
        }

    @override
    def python(self, models: Models) -> str:
        lines = [
            "import bathyscope",
            "from bathyscope.causal import causal_tracing",
            "from bathyscope.readouts import Probability, answer_token",
            "",
            loading(models, self.model),
            f"prompt = {self.text!r}",
            f"metric = Probability(answer_token(model, {self.answer!r}, after=prompt).id)",
            "result = causal_tracing(",
            f"    model, prompt, {self.subject!r}, metric,",
            f"    component={self.component!r}, layers={self.layers!r}, samples={self.samples},",
            ")",
            "print([(cell.place, cell.effect) for cell in result.strongest(5)])",
        ]
        return "\n".join(lines)
