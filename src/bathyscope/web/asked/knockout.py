"""Attention knockout: edges cut, and what the answer loses."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from bathyscope.web.asked.causal import CausalAsked
from bathyscope.web.models import Models


class KnockoutAsked(CausalAsked):
    """What the last token has to look at.

    Args:
        text: the prompt.
        answer: whose probability is measured.
        layers: the middles of the windows.
        window: how many layers are cut together.
    """

    command: ClassVar[str] = "knockout"
    function: ClassVar[str] = "attention_knockout"

    kind: Literal["knockout"] = "knockout"
    window: Annotated[int, Field(ge=1, le=200)] = 9

    @property
    @override
    def prompts(self) -> dict[str, str]:
        return {"prompt": self.text}

    @property
    @override
    def chosen(self) -> dict[str, Any]:
        return {"layers": self.layers, "window": self.window}

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        texts, options = super().arguments(models)
        return texts, {**options, "--window": self.window}
