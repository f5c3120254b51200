"""Back-patching: what a prompt holds late, written back early into the same prompt (arXiv 2406.12775).

A model that resolves the first step of a question too late for the layers which know the second may answer when it is
given the resolved representation from the start.
"""

from typing import Any

from bathyscope import prompts
from bathyscope.errors import UsageError
from bathyscope.model import Model, Prompt
from bathyscope.patchscope_request import Layers, Source, Target
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.patchscopes import patchscope
from bathyscope.prompts import Inspection, Position
from bathyscope.readouts import Readout


def back_patching(
    model: Model,
    prompt: Prompt,
    *,
    position: Position = "last",
    layers: Layers = "all",
    readout: Readout | None = None,
    **options: Any,
) -> PatchscopeResult:
    """Write a representation of a prompt back at the same position of every layer below its own.

    Args:
        model: the model.
        prompt: what it reads, and what it is written into.
        position: which token; one.
        layers: after which blocks it is read.
        readout: what is taken from each run; `Generate` of 20 tokens unless said.
        options: `controls`, `store`, `budget`, `progress` and `stop` of `patchscope`.

    Returns:
        A cell for each pair of a layer and one below it; `unpatched` is what the prompt says by itself.

    Raises:
        UsageError: several positions, or no layer with another below it.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal import back_patching
        >>> from bathyscope.readouts import Generate
        >>> prompt = "The currency of the country where Paris is located is the"
        >>> found = back_patching(bathyscope.load(), prompt, position="Paris", layers="1", readout=Generate(2))
        >>> [(cell.source_layer, cell.target_layer) for cell in found.cells]
        [(1, -1), (1, 0)]
    """
    tokens = model.tokenize(prompt)
    at, *others = prompts.resolve(tokens, position)
    if others:
        raise UsageError(f"positions {[at, *others]} were given", "one is written back at a time", "last")
    same = Inspection(tokens, (at,), tokens.texts[at])
    return patchscope(Source(model, tokens, at, layers), Target(model, same, layer="below"), readout=readout, **options)
