"""Future lens: what the model will say several tokens on, read off one representation now (arXiv 2311.04897)."""

from typing import Unpack

from bathyscope import prompts
from bathyscope.errors import UsageError
from bathyscope.lens_result import LensResult
from bathyscope.lenses.vocabulary import LensOptions, behind_last_block, fitted, look, looked
from bathyscope.mappings import Affine
from bathyscope.model import Model, Prompt
from bathyscope.patchscope_request import Target
from bathyscope.prompts import InspectionPrompt
from bathyscope.readouts import Generate
from bathyscope.soft_prompts import SoftPrompt

FIXED_PROMPT = InspectionPrompt("Hello! Could you please tell me more about x", "x")
"""Fixed text of the kind that the paper tries, with our placeholder at its end."""


def future_lens(
    model: Model,
    text: Prompt,
    *,
    by: Affine | SoftPrompt | InspectionPrompt | None = None,
    n_ahead: int = 4,
    **options: Unpack[LensOptions],
) -> LensResult:
    """What the model will say after each token, beyond the next one, from a single layer's representation.

    Args:
        model: the model.
        text: what it reads.
        by: the paper's three ways: a linear map to a later token's last block (`fitting.fit_future_lens`), a
            learned soft prompt (`fitting.fit_soft_prompt`, which is for one layer), or a fixed prompt, which
            needs no fit and is the default.
        n_ahead: how many tokens are written, where a prompt is the way; a linear map is for one number of its own.
        options: see `LensOptions`.

    Raises:
        UsageError: the mapping or soft prompt is none of these, or was fitted on another model.

    Example:
        >>> import bathyscope
        >>> found = bathyscope.lenses.future_lens(bathyscope.load(), "New York", position="last", layer="20", n_ahead=2)
        >>> len(found.cells)
        1
    """
    if isinstance(by, Affine):
        layers = tuple(dict.fromkeys(-1 if source.layer is None else source.layer for source, _ in by.terms))
        options = LensOptions(**{"layer": layers, **options})
        return look("future-lens", model, text, behind_last_block(model), fitted(by, "future-lens"), options)
    if n_ahead < 1:
        raise UsageError(f"n_ahead={n_ahead} was given", "at least 1")
    if isinstance(by, SoftPrompt):
        if (layer := options.setdefault("layer", by.layer)) != by.layer:
            raise UsageError(
                f"layer={layer!r} was given",
                f"this soft prompt was learned for layer {by.layer}",
                "no layer",
            )
        target = Target(prompt=by.inspection(model), layer=by.layer)
    else:
        target = Target(prompt=prompts.prepare(model, by or FIXED_PROMPT))
    return LensResult.of("future-lens", looked(model, text, target, None, options, Generate(n_ahead)))
