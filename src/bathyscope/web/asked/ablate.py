"""Live ablation: latents and errors of a circuit changed where they stand, and what that does to its pairs."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from bathyscope.circuits import Change
from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.web.asked.base import Asked, Running, loading, refuse_other
from bathyscope.web.models import Models
from bathyscope.web.opened import NAME, OpenedCircuit

FeatureName = Annotated[str, Field(max_length=80, pattern=r"^[a-z0-9_.]{1,40}/(?:[0-9]{1,9}|error)@[0-9]{1,6}$")]


class AblateAsked(Asked):
    """What becomes of the pairs that a circuit was found on, with some latents set to a value and errors taken away.

    Args:
        circuit: one of those that were named when the server was started.
        features: its latents and errors, such as "resid_post.8/281@1" and "resid_post.8/error@1".
        value: what latents are set to; 0 takes them away.
        pairs: at most so many of the pairs, the first ones.
    """

    command: ClassVar[str] = "circuit edit"

    kind: Literal["ablate"] = "ablate"
    circuit: Annotated[str, Field(pattern=NAME)]
    features: Annotated[tuple[FeatureName, ...], Field(min_length=1, max_length=64)]
    value: Annotated[float, Field(gt=-1e6, lt=1e6)] = 0.0
    pairs: Annotated[int, Field(ge=1, le=10_000)] = 16

    @override
    def run(self, running: Running) -> Result:
        opened = self._opened(running.models)
        model = running.models.named(opened.model)
        editor = opened.editor(model, self.pairs)
        return editor.edit(self._changes(), progress=running.progress, stop=running.stop)

    @override
    def served(self, models: Models) -> str | None:
        return self._opened(models).model

    @override
    def arguments(self, models: Models) -> tuple[list[str], dict[str, Any]]:
        opened = self._opened(models)
        return [opened.path], {
            "--set": self._typed(),
            "--limit": self.pairs,
            "--coders": opened.folder,
        }

    @override
    def python(self, models: Models) -> str:
        opened = self._opened(models)
        assert opened.circuit is not None
        folders = [record["path"] for record in opened.circuit.coders.values()]
        found = f"coder_folders({opened.folder!r})" if opened.folder else repr(folders)
        loads = "coder_folders, load_coder" if opened.folder else "load_coder"
        lines = [
            "import bathyscope",
            "from bathyscope.circuits import Change, edit_features, examples_of, open_circuit",
            f"from bathyscope.sae import {loads}",
            "",
            loading(models, opened.model),
            f"pairs = examples_of(model, open_circuit({opened.path!r}).pairs[:{self.pairs}])",
            f"coders = [load_coder(one) for one in {found}]",
            f"changes = [Change.parse(one) for one in {self._typed()!r}]",
            "result = edit_features(model, coders, changes, pairs)",
            "print(result.before['logit_difference'], result.after['logit_difference'], result.controls)",
        ]
        return "\n".join(lines)

    def _typed(self) -> list[str]:
        """The changes as they are typed; an error is taken away, whatever latents are set to."""
        equals = "" if self.value == 0 else f"={self.value!r}"
        return [one if "/error@" in one else f"{one}{equals}" for one in dict.fromkeys(self.features)]

    def _changes(self) -> list[Change]:
        return [Change.parse(one) for one in self._typed()]

    def _opened(self, models: Models) -> OpenedCircuit:
        """The circuit, which has to be one that latents can be ablated in.

        Raises:
            UsageError: it is a graph without coders, or lacks one of the latents or errors.
        """
        opened = models.circuit(self.circuit)
        if not opened.pairs or opened.model is None:
            raise UsageError(f"{self.circuit} is only looked at", "a circuit of coders' latents, with its pairs")
        refuse_other(self.model, opened.model, "circuit")
        there = {node.key for node in opened.view.nodes if node.kind in ("feature", "error")}
        if strange := [one for one in self.features if one not in there]:
            raise UsageError(f"{strange[0]} was to be ablated", f"it is not in the circuit {self.circuit}")
        return opened
