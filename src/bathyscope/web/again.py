"""Stored runs asked again: as patchscopes, as the lenses that patchscopes were, and as causal maps."""

from collections.abc import Mapping
from typing import Any, Final

from bathyscope import prompts
from bathyscope.causal import CausalResult, causal_again
from bathyscope.errors import UsageError
from bathyscope.lens_result import LensResult
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.patchscopes import patchscope_again
from bathyscope.results import Result
from bathyscope.store import RunInfo
from bathyscope.web.models import Models
from bathyscope.web.opened import LENSES, SHORTCUT

KINDS: Final = (PatchscopeResult.kind, CausalResult.kind)
"""The kinds of runs that say enough to be asked again."""


def asked_again(info: RunInfo, models: Models, **options: Any) -> Result:
    """What a run asked, with what the store lacks of it computed.

    Args:
        info: the run.
        models: those that are served.
        options: how it is run: `store`, `stop`, `budget`.

    Raises:
        UsageError: it is of another kind, or does not say enough.
        ModelError: its model is not served.
    """
    if info.kind not in KINDS:
        given = f"run {info.id} is of kind {info.kind}"
        raise UsageError(given, f"those of kind {' or '.join(KINDS)} say enough", "the question that made it")
    found = [models.like(one) for one in info.spec.get("models", ())]
    if info.kind == CausalResult.kind:
        return causal_again(info.spec, found[0] if found else models.named(None), **options)
    result, lens = patchscope_again(info.spec, found[0], found[-1], **options), lens_of(info.spec)
    return result if lens is None else LensResult.of(lens, result)


def lens_of(spec: Mapping[str, Any]) -> str | None:
    """The lens that a stored patchscope was, by where it wrote and what it read out; None where it was none.

    Example:
        >>> from bathyscope.web.again import lens_of
        >>> lens_of({"readout": "NextToken", "target": {"prompt": "", "layers": [29]}, "mapping": "Identity"})
        'logit-lens'
    """
    target = spec.get("target")
    if spec.get("readout") != "NextToken" or not isinstance(target, Mapping):
        return None
    if target["prompt"] == "":  # behind the last block, where no prompt matters
        return "logit-lens" if spec["mapping"] == "Identity" else LENSES.get(spec.get("method", ""), SHORTCUT)
    plain = spec["mapping"] == "Identity" and target["layers"] == "same"
    prompted = {"token-identity": prompts.token_identity(), "bare-placeholder": prompts.bare()}
    return next((name for name, one in prompted.items() if plain and one.text == target["prompt"]), None)
