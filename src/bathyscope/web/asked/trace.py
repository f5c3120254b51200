"""Causal tracing: a subject noised, and what restores the answer."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from bathyscope.web.asked.base import Text
from bathyscope.web.asked.causal import CausalAsked, Component
from bathyscope.web.models import Models


class TraceAsked(CausalAsked):
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
    function: ClassVar[str] = "causal_tracing"

    kind: Literal["trace"] = "trace"
    subject: Text
    component: Component = "resid_post"
    samples: Annotated[int, Field(ge=1, le=20)] = 3

    @property
    @override
    def prompts(self) -> dict[str, str]:
        return {"prompt": self.text, "subject": self.subject}

    @property
    @override
    def chosen(self) -> dict[str, Any]:
        return {"component": self.component, "layers": self.layers, "samples": self.samples}

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        texts, options = super().arguments(models)
        return texts, {"--subject": self.subject, **options, "--site": self.component, "--samples": self.samples}
