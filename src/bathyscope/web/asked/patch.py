"""Activation patching: what one run holds, written into another, place by place."""

from typing import Any, ClassVar, Literal

from typing_extensions import override

from bathyscope.web.asked.base import Text
from bathyscope.web.asked.causal import CausalAsked, Component
from bathyscope.web.models import Models


class PatchAsked(CausalAsked):
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
    function: ClassVar[str] = "activation_patching"

    kind: Literal["patch"] = "patch"
    corrupted: Text
    wrong: Text
    component: Component = "resid_post"

    @property
    @override
    def prompts(self) -> dict[str, str]:
        return {"clean": self.text, "corrupted": self.corrupted}

    @property
    @override
    def chosen(self) -> dict[str, Any]:
        return {"component": self.component, "layers": self.layers}

    @property
    @override
    def wrong_answer(self) -> str | None:
        return self.wrong

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        texts, options = super().arguments(models)
        return [*texts, self.corrupted], {
            **options,
            "--site": None if self.component == "resid_post" else self.component,
        }
