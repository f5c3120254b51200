"""Lenses that read a representation as a distribution over next tokens; each is a patchscope with its choices made.

They differ in the mapping and in where it is written: behind the last block, where no pass is needed,
or into a prompt that makes the model say what stands there.
"""

from collections.abc import Callable
from typing import TypedDict, Unpack

from bathyscope import prompts
from bathyscope.engine import Listener, Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.lens_result import LensResult
from bathyscope.mappings import Affine, Mapping
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_request import Layers, Source, Target
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.patchscopes import patchscope, plan_patchscope
from bathyscope.prompts import Inspection, Position
from bathyscope.readouts import NextToken, Readout
from bathyscope.sites import check_layer
from bathyscope.store import Store


class LensOptions(TypedDict, total=False):
    """What every lens takes besides the model and the text.

    Args:
        position: which tokens: "all" (the default), "last", an index, several, or text.
        layer: after which layers: "all" (the default), "embed", "0-10", a number, several.
        k: how many of the likeliest tokens are kept, 5 unless said.
        store: where finished cells are kept.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do.
        stop: looked at after every batch.
        planned: called with the plan before it is carried out.
        listen: called with the plan and each event of what is computed.
    """

    position: Position
    layer: Layers
    k: int
    store: Store | None
    budget: int
    progress: Progress | None
    stop: Stop | None
    planned: Callable[[Plan], None] | None
    listen: Listener | None


def logit_lens(model: Model, text: Prompt, **options: Unpack[LensOptions]) -> LensResult:
    """What each layer would say next, were it the last: final norm and unembedding (nostalgebraist 2020).

    Args:
        model: the model.
        text: what it reads.
        options: see `LensOptions`.

    Example:
        >>> import bathyscope
        >>> found = bathyscope.lenses.logit_lens(bathyscope.load(), "The capital of France is", position="last")
        >>> [found.at(layer=layer, position=4).text for layer in (0, 25, 29)]
        [' a', ' ', ' Paris']
    """
    return look("logit-lens", model, text, behind_last_block(model), None, options)


def tuned_lens(model: Model, text: Prompt, mapping: Affine, **options: Unpack[LensOptions]) -> LensResult:
    """The logit lens after an affine translator per layer, trained on the KL divergence (arXiv 2303.08112).

    Args:
        model: the model that the lens was fitted on.
        text: what it reads.
        mapping: from `fitting.fit_tuned_lens`, or `Affine.load`.
        options: see `LensOptions`.

    Raises:
        UsageError: the mapping is no tuned lens, or was fitted on another model.
    """
    return look("tuned-lens", model, text, behind_last_block(model), fitted(mapping, "tuned-lens"), options)


def jacobian_lens(model: Model, text: Prompt, mapping: Affine, **options: Unpack[LensOptions]) -> LensResult:
    """The logit lens after the mean Jacobian from each layer to the last block's output.

    Args:
        model: the model that the lens was fitted on.
        text: what it reads.
        mapping: from `fitting.fit_jacobian_lens`, `fitting.load_jacobian_lens` or `Affine.load`.
        options: see `LensOptions`.

    Raises:
        UsageError: the mapping is no Jacobian lens, or was fitted on another model.
    """
    return look("jacobian-lens", model, text, behind_last_block(model), fitted(mapping, "jacobian-lens"), options)


def attribute_lens(model: Model, text: Prompt, mapping: Affine, **options: Unpack[LensOptions]) -> LensResult:
    """What a relation's linear approximation makes of each representation (LRE, arXiv 2308.09124).

    Args:
        model: the model that the relation was fitted on.
        text: what it reads; `position` should be the subject's last token.
        mapping: from `fitting.fit_relation`; it is for one layer, which is read.
        options: see `LensOptions`.

    Raises:
        UsageError: the mapping is no relation, or was fitted on another model or layer.
    """
    relation = fitted(mapping, "relation")
    layers = tuple(-1 if source.layer is None else source.layer for source, _ in relation.terms)
    return look("attribute-lens", model, text, behind_last_block(model), relation, {"layer": layers, **options})


def linear_shortcut(
    model: Model, text: Prompt, mapping: Affine, *, to: int | None = None, **options: Unpack[LensOptions]
) -> LensResult:
    """A jump from each layer to a later one, from where the model goes on in its own context (arXiv 2303.09435).

    Args:
        model: the model that the mapping was fitted on.
        text: what it reads.
        mapping: from `fitting.fit_affine`, best with method="linear".
        to: the layer that is jumped to; the last unless said.
        options: see `LensOptions`.

    Raises:
        UsageError: the mapping was fitted on another model, or not for these layers.
    """
    last = model.n_layers - 1
    if to in (None, last):
        return look("linear-shortcut", model, text, behind_last_block(model), mapping, options)
    check_layer(to, model.n_layers)
    tokens = model.tokenize(text)
    found = [
        # The target is the text itself, up to the token that is read, and the model goes on from there.
        looked(
            model,
            tokens,
            Target(prompt=_until(tokens, one), layer=to),
            mapping,
            LensOptions(**{"layer": tuple(range(-1, to)), **options, "position": one}),
        )
        for one in prompts.resolve(tokens, options.get("position", "all"))
    ]
    return LensResult.of("linear-shortcut", *found)


def token_identity(model: Model, text: Prompt, **options: Unpack[LensOptions]) -> LensResult:
    """What the model repeats when each layer's representation stands in a few-shot copying prompt (arXiv 2401.06102).

    Args:
        model: the model.
        text: what it reads.
        options: see `LensOptions`.
    """
    return look("token-identity", model, text, Target(prompt=prompts.token_identity()), None, options)


def bare_placeholder(model: Model, text: Prompt, **options: Unpack[LensOptions]) -> LensResult:
    """What the model says next when each layer's representation stands alone, in place of a single `?`.

    Args:
        model: the model.
        text: what it reads.
        options: see `LensOptions`.
    """
    return look("bare-placeholder", model, text, Target(prompt=prompts.bare()), None, options)


def behind_last_block(model: Model) -> Target:
    """A write at the last block's output, whose reading depends on no prompt: norm and unembedding only."""
    return Target(prompt=Inspection(Tokens("", (0,), ("",)), (0,), ""), layer=model.n_layers - 1)


def look(
    lens: str, model: Model, text: Prompt, target: Target, mapping: Mapping | None, options: LensOptions
) -> LensResult:
    """A lens whose readout is the next token."""
    return LensResult.of(lens, looked(model, text, target, mapping, options))


def looked(
    model: Model,
    text: Prompt,
    target: Target,
    mapping: Mapping | None,
    options: LensOptions,
    readout: Readout | None = None,
) -> PatchscopeResult:
    """The patchscope that a lens is.

    Raises:
        UsageError: an option that no lens has.
    """
    if unknown := sorted(options.keys() - LensOptions.__annotations__.keys()):
        known = ", ".join(LensOptions.__annotations__)
        raise UsageError(f"the option {unknown[0]!r} was given to a lens", f"options are {known}", "layer=..., k=...")
    source = Source(model, text, options.get("position", "all"), options.get("layer", "all"))
    readout, budget = readout or NextToken(options.get("k", 5)), options.get("budget", MEMORY_BUDGET)
    if planned := options.get("planned"):
        planned(plan_patchscope(source, target, mapping=mapping, readout=readout, control=False, budget=budget))
    return patchscope(
        source,
        target,
        mapping=mapping,
        readout=readout,
        control=False,
        store=options.get("store"),
        budget=budget,
        progress=options.get("progress"),
        stop=options.get("stop"),
        listen=options.get("listen"),
    )


def fitted(mapping: Affine, method: str) -> Affine:
    """A mapping that was fitted in the way that a lens needs.

    Raises:
        UsageError: it was not.
    """
    if not isinstance(mapping, Affine) or mapping.fit.method != method:
        given = mapping.fit.method if isinstance(mapping, Affine) else type(mapping).__name__
        raise UsageError(
            f"a mapping fitted as {given!r} was given",
            f"one fitted as {method!r} is needed",
            f"bathyscope mapping fit --method {method} --text FILE --out FILE",
        )
    return mapping


def _until(tokens: Tokens, position: int) -> Inspection:
    stop = position + 1
    part = Tokens("".join(tokens.texts[:stop]), tokens.ids[:stop], tokens.texts[:stop])
    return Inspection(part, (position,), tokens.texts[position])
