"""A patchscope: layers and tokens of a text, written into an inspection prompt."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field
from typing_extensions import override

import bathyscope
from bathyscope import prompts
from bathyscope.mappings import Identity, Mapping, NormMatch, Scale
from bathyscope.prompts import InspectionPrompt
from bathyscope.readouts import Generate
from bathyscope.results import Result
from bathyscope.web.asked.base import BUDGET, Asked, At, Layers, Running, Text, loading
from bathyscope.web.models import Models
from bathyscope.web.telling import Teller, grid_of

PromptName = Literal["entity-description", "token-identity", "bare", "attribute", "selfie"]
ControlName = Literal["no-activation", "random", "mean", "shuffled", "prompting"]
MappingName = Literal["identity", "norm-match"]
NAMES: tuple[str, ...] = get_args(PromptName)


class PatchscopeAsked(Asked):
    """What the layers of a model hold of a text, in its own words.

    Args:
        text: what is read.
        at: at which token: "last", "all", its number, or text that ends in it.
        layers: after which layers, such as "all" or "0-10".
        prompt: the inspection prompt that is written into; not with `own_prompt`.
        own_prompt: a prompt of one's own, whose last `placeholder` is overwritten.
        placeholder: that text.
        target_layer: after which layer is written: "same", or layers as above.
        mapping: what is done to a vector before.
        scale: what it is multiplied by, with the mapping "identity".
        new_tokens: how many tokens are written.
        controls: what is run besides the prompt as it is.
    """

    command: ClassVar[str] = "patchscope"

    kind: Literal["patchscope"] = "patchscope"
    text: Text
    at: At = "last"
    layers: Layers = "all"
    prompt: PromptName = "entity-description"
    own_prompt: Text | None = None
    placeholder: Annotated[str, Field(min_length=1, max_length=200)] = "x"
    target_layer: Layers = "same"
    mapping: MappingName = "identity"
    scale: Annotated[float, Field(gt=-1000, lt=1000)] = 1.0
    new_tokens: Annotated[int, Field(ge=1, le=64)] = 20
    controls: Annotated[tuple[ControlName, ...], Field(max_length=5)] = ()

    @override
    def run(self, running: Running) -> Result:
        source = bathyscope.Source(running.models.named(self.model), self.text, self.at, self.layers)
        target = bathyscope.Target(prompt=self._inspection(), layer=self.target_layer)
        chosen = {"mapping": self._mapping(), "readout": Generate(self.new_tokens), "budget": BUDGET}
        plan = bathyscope.plan_patchscope(source, target, control=False, **chosen)
        running.planned(plan)
        running.job.tell("plan", **grid_of(plan, source.model, self.text))
        teller = Teller(running.job, len(plan.cells))
        options = {"store": running.store, "stop": running.stop, "listen": teller.listen}
        return bathyscope.patchscope(source, target, **chosen, controls=self.controls, **options)

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        own = self.own_prompt is not None
        return [self.text], {
            "--at": None if self.at == "last" else self.at,
            "--layers": None if self.layers == "all" else self.layers,
            "--prompt": None if own or self.prompt == "entity-description" else self.prompt,
            "--text": self.own_prompt,
            "--placeholder": self.placeholder if own and self.placeholder != "x" else None,
            "--target-layer": None if self.target_layer == "same" else self.target_layer,
            "--mapping": None if self.mapping == "identity" else self.mapping,
            "--scale": None if self.scale == 1.0 else f"{self.scale:g}",
            "--new-tokens": None if self.new_tokens == 20 else self.new_tokens,
            "--controls": ",".join(self.controls) or None,
        }

    @override
    def python(self, models: Models) -> str:
        prompt = f"prompts.named({self.prompt!r})"
        if self.own_prompt is not None:
            prompt = f"prompts.custom({self.own_prompt!r}, {self.placeholder!r})"
        mapping = {"norm-match": "NormMatch()"}.get(self.mapping, f"Scale({self.scale!r})")
        mapped = self.mapping != "identity" or self.scale != 1.0
        lines = [
            "import bathyscope",
            "from bathyscope import Source, Target, prompts",
            *([f"from bathyscope.mappings import {mapping.partition('(')[0]}"] if mapped else []),
            "from bathyscope.readouts import Generate",
            "",
            loading(models, self.model),
            "result = bathyscope.patchscope(",
            f"    Source(model, {self.text!r}, position={self.at!r}, layer={self.layers!r}),",
            f"    Target(prompt={prompt}, layer={self.target_layer!r}),",
            *([f"    mapping={mapping},"] if mapped else []),
            f"    readout=Generate({self.new_tokens}),",
            *([f"    controls={self.controls!r},"] if self.controls else []),
            ")",
            "for cell in result.cells:",
            "    print(cell.source_layer, repr(cell.source_token), cell.text)",
        ]
        return "\n".join(lines)

    def _inspection(self) -> InspectionPrompt:
        if self.own_prompt is None:
            return prompts.named(self.prompt)
        return prompts.custom(self.own_prompt, self.placeholder)

    def _mapping(self) -> Mapping:
        if self.mapping == "norm-match":
            return NormMatch()
        return Identity() if self.scale == 1.0 else Scale(self.scale)
