"""A patchscope: layers and tokens of a text, written into an inspection prompt."""

from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import Field
from typing_extensions import override

import bathyscope
from bathyscope import prompts
from bathyscope.errors import UsageError
from bathyscope.mappings import Affine, Identity, Mapping, NormMatch, Scale
from bathyscope.mappings.layers import mapped_layers
from bathyscope.model import Model
from bathyscope.prompts import InspectionPrompt
from bathyscope.readouts import Generate
from bathyscope.results import Result
from bathyscope.web.asked.base import BUDGET, Asked, At, Layers, Running, Text, loading
from bathyscope.web.models import Models
from bathyscope.web.opened import NAME
from bathyscope.web.telling import Teller, grid_of

PromptName = Literal["entity-description", "token-identity", "bare", "attribute", "selfie"]
ControlName = Literal["no-activation", "random", "mean", "shuffled", "prompting"]
MappingName = Annotated[str, Field(pattern=NAME)]
PLAIN: Final = ("identity", "norm-match")
"""The mappings that are not fitted."""
NAMES: tuple[str, ...] = get_args(PromptName)


class PatchscopeAsked(Asked):
    """What the layers of a model hold of a text, in its own words.

    Args:
        text: what is read.
        at: at which token: "last", "all", its number, or text that ends in it.
        layers: after which layers, such as "all" or "0-10"; "all" are those that a fitted mapping is for.
        prompt: the inspection prompt that is written into; not with `own_prompt`.
        own_prompt: a prompt of one's own, whose last `placeholder` is overwritten.
        placeholder: that text.
        target_model: which of the served models is written into; the same unless said.
        target_layer: after which layer is written: "same", or layers as above; "same" is where a fitted mapping leads.
        mapping: what is done to a vector before: "identity", "norm-match", or one that the server was started with.
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
    target_model: Annotated[str, Field(max_length=400)] | None = None
    target_layer: Layers = "same"
    mapping: MappingName = "identity"
    scale: Annotated[float, Field(gt=-1000, lt=1000)] = 1.0
    new_tokens: Annotated[int, Field(ge=1, le=64)] = 20
    controls: Annotated[tuple[ControlName, ...], Field(max_length=5)] = ()

    @override
    def run(self, running: Running) -> Result:
        model, other = self._models(running.models)
        mapping = self._mapping(running.models)
        read, written = self._places(mapping, (model, other or model))
        source = bathyscope.Source(model, self.text, self.at, read)
        target = bathyscope.Target(other, self._inspection(), written)
        chosen = {"mapping": mapping, "readout": Generate(self.new_tokens), "budget": BUDGET}
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
            "--mapping": None if self.mapping == "identity" else self._typed_mapping(models),
            "--scale": None if self.scale == 1.0 else f"{self.scale:g}",
            "--new-tokens": None if self.new_tokens == 20 else self.new_tokens,
            "--controls": ",".join(self.controls) or None,
            "--target-model": self._typed_target(models),
        }

    @override
    def python(self, models: Models) -> str:
        prompt = f"prompts.named({self.prompt!r})"
        if self.own_prompt is not None:
            prompt = f"prompts.custom({self.own_prompt!r}, {self.placeholder!r})"
        (model, other), applied = self._models(models), self._mapping(models)
        read, written = self._places(applied, (model, other or model))
        kind = type(applied).__name__
        made = {"NormMatch": "NormMatch()", "Scale": f"Scale({self.scale!r})"}.get(kind)
        made = made or f"Affine.load({self._typed_mapping(models)!r})"
        mapped = kind != "Identity"
        into = "" if other is None else "other, "
        lines = [
            "import bathyscope",
            "from bathyscope import Source, Target, prompts",
            *([f"from bathyscope.mappings import {kind}"] if mapped else []),
            "from bathyscope.readouts import Generate",
            "",
            loading(models, self.model),
            *([] if other is None else [loading(models, self.target_model, "other")]),
            "result = bathyscope.patchscope(",
            f"    Source(model, {self.text!r}, position={self.at!r}, layer={read!r}),",
            f"    Target({into}prompt={prompt}, layer={written!r}),",
            *([f"    mapping={made},"] if mapped else []),
            f"    readout=Generate({self.new_tokens}),",
            *([f"    controls={self.controls!r},"] if self.controls else []),
            ")",
            "for cell in result.cells:",
            "    print(cell.source_layer, repr(cell.source_token), cell.text)",
        ]
        return "\n".join(lines)

    def _models(self, models: Models) -> tuple[Model, Model | None]:
        """The model that is read, and another one that is written into."""
        source = models.known(self.model)
        target = source if self.target_model is None else models.known(self.target_model)
        return models.named(source), None if target == source else models.named(target)

    def _places(self, mapping: Mapping, models: tuple[Model, Model]) -> tuple[Any, Any]:
        """Where it is read and written: where nothing is said, at layers that a mapping was fitted for."""
        if not isinstance(mapping, Affine):
            return self.layers, self.target_layer
        layers = None if self.layers == "all" else self.layers
        return mapped_layers(mapping, models, layers, None if self.target_layer == "same" else self.target_layer)

    def _inspection(self) -> InspectionPrompt:
        if self.own_prompt is None:
            return prompts.named(self.prompt)
        return prompts.custom(self.own_prompt, self.placeholder)

    def _mapping(self, models: Models) -> Mapping:
        """What is done to a vector before it is written.

        Raises:
            UsageError: no mapping of that name is served, or it writes no vectors.
        """
        if self.mapping == "norm-match":
            return NormMatch()
        if self.mapping == "identity":
            return Identity() if self.scale == 1.0 else Scale(self.scale)
        found = models.mapping(self.mapping).mapping
        if not isinstance(found, Affine):
            raise UsageError(f"the mapping {self.mapping} was asked for", "a soft prompt maps nothing", "future-lens")
        return found

    def _typed_target(self, models: Models) -> str | None:
        if self.target_model is None or self._models(models)[1] is None:
            return None
        return models.argument(self.target_model) or self.target_model

    def _typed_mapping(self, models: Models) -> str:
        return self.mapping if self.mapping in PLAIN else models.mapping(self.mapping).path
