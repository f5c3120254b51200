"""Checks of a loaded model against its row in `families`: identities that hold only if every site is right.

`quick_checks` runs when a model loads; `all_checks` is what `bathyscope doctor` prints.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.errors import SiteError
from bathyscope.forward import Run, run
from bathyscope.generation import generate
from bathyscope.interventions import Add, Replace, Write
from bathyscope.model import Model
from bathyscope.sites import COMPONENTS, GLOBAL, Site

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest relative difference that counts as equal; 0.05 for the half-precision dtypes."""


@dataclass(frozen=True)
class Check:
    """One identity on one model.

    Args:
        name: what must hold.
        passed: whether it does; None where the family has no such site.
        detail: the difference that was measured, or the reason why there is nothing to measure.
    """

    name: str
    passed: bool | None
    detail: str


def quick_checks(model: Model) -> list[Check]:
    """One pass: blocks chain, parts add up to the residual stream, and the tail gives the model's logits.

    Example:
        >>> import bathyscope
        >>> from bathyscope.checks import quick_checks
        >>> all(check.passed for check in quick_checks(bathyscope.load()))
        True
    """
    sites = [site for site in _layered(model, "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")]
    if _has(model, Site("final_norm")):
        sites.append(Site("final_norm"))
    plain = run(model, _sample(model), reads=sites)
    return [*_chain(model, plain), *_sums(model, plain), _tail(model, plain)]


def all_checks(model: Model) -> list[Check]:
    """The quick checks, then one for each component: written, a site changes what follows and nothing before."""
    return [*quick_checks(model), *_writes(model), _cache(model)]


def _chain(model: Model, plain: Run) -> Iterator[Check]:
    found = plain.activations
    gaps = [
        _gap(found[Site("resid_pre", layer + 1)][0], found[Site("resid_post", layer)][0])
        for layer in range(model.n_layers - 1)
    ]
    yield _judge(model, "resid_post of each block is resid_pre of the next", max(gaps, default=0.0))


def _sums(model: Model, plain: Run) -> Iterator[Check]:
    def total(first: str, second: str, layer: int) -> Tensor:
        return plain.activations[Site(first, layer)][0] + plain.activations[Site(second, layer)][0]

    names = {site.component for site in plain.activations}
    if not {"attn_out", "mlp_out"} <= names:
        yield Check("resid_pre + attn_out + mlp_out is resid_post", None, _reason(model, "attn_out"))
        return
    whole, halves = [], []
    for layer in range(model.n_layers):
        post = plain.activations[Site("resid_post", layer)][0]
        whole.append(_gap(total("resid_pre", "attn_out", layer) + plain.activations[Site("mlp_out", layer)][0], post))
        if "resid_mid" in names:
            middle = plain.activations[Site("resid_mid", layer)][0]
            halves += [
                _gap(total("resid_pre", "attn_out", layer), middle),
                _gap(total("resid_mid", "mlp_out", layer), post),
            ]
    yield _judge(model, "resid_pre + attn_out + mlp_out is resid_post", max(whole))
    if halves:
        yield _judge(model, "resid_mid lies between attn_out and mlp_out", max(halves))
    else:
        yield Check("resid_mid lies between attn_out and mlp_out", None, _reason(model, "resid_mid"))


def _tail(model: Model, plain: Run) -> Check:
    last = plain.activations[Site("resid_post", model.n_layers - 1)][0]
    with torch.no_grad():
        gap = _gap(model.unembed(last), plain.logits[0].to(last.device))
    return _judge(model, "the final norm and unembedding of the last block give the logits", gap)


def _writes(model: Model) -> Iterator[Check]:
    tokens = _sample(model)
    middle, layer = len(tokens) // 2, model.n_layers // 2
    before = Site("resid_pre", 0)
    plain = run(model, tokens, reads=[before])
    for component in COMPONENTS:
        site = Site(component) if component in GLOBAL else Site(component, layer)
        name = f"{component}: a write changes what follows, at no earlier position"
        if component == "pattern" or not _has(model, site):
            yield Check(name, None, "read only" if component == "pattern" else _reason(model, component))
            continue
        value = run(model, tokens, reads=[site]).activations[site][0][middle]
        same = run(model, tokens, writes=[Write(site, Replace(value), middle)])
        added = run(model, tokens, writes=[Write(site, Add(_noise(value)), middle)])
        kept = _gap(same.logits[0], plain.logits[0])
        earlier = _gap(added.logits[0][:middle], plain.logits[0][:middle])
        changed = _gap(added.logits[0][middle:], plain.logits[0][middle:])
        passed = max(kept, earlier) <= _tolerance(model) < changed
        yield Check(name, passed, f"own value {kept:.1e}, earlier {earlier:.1e}, changed {changed:.1e}")


def _cache(model: Model) -> Check:
    """Greedy tokens from the cache against whole passes."""
    tokens = list(_sample(model).ids)
    cached = generate(model, tokens, max_new_tokens=4)[0].ids
    for token in cached:
        logits = run(model, tokens).logits[0][-1]
        # A tie between the two best may fall either way, since the kernels differ.
        gap = float(logits.max() - logits[token])
        if gap > _tolerance(model) * float(logits.abs().max()):
            return Check("generation with a cache is generation without", False, f"token {token} is {gap:.1e} short")
        tokens.append(token)
    return Check("generation with a cache is generation without", True, f"{len(cached)} tokens")


def _sample(model: Model):  # noqa: ANN202
    """A few ordinary tokens of this vocabulary."""
    return model.tokenize("The keys to the old wooden cabinet are on the table")


def _layered(model: Model, *components: str) -> Iterator[Site]:
    for component in components:
        if _has(model, Site(component, 0)):
            yield from (Site(component, layer) for layer in range(model.n_layers))


def _has(model: Model, site: Site) -> bool:
    return _refusal(model, site) is None


def _refusal(model: Model, site: Site) -> SiteError | None:
    try:
        model.tap(site)
    except SiteError as error:
        return error
    return None


def _reason(model: Model, component: str) -> str:
    site = Site(component) if component in GLOBAL else Site(component, model.n_layers // 2)
    error = _refusal(model, site)
    return error.expected if error else ""


def _noise(value: Tensor) -> Tensor:
    """A change of ten times the activation's size, the same at every run."""
    drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(value) * value.abs().mean() * 10


def _gap(first: Tensor, second: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    if not first.numel():
        return 0.0
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-12))


def _tolerance(model: Model) -> float:
    return TOLERANCE.get(model.dtype, 0.05)


def _judge(model: Model, name: str, gap: float) -> Check:
    return Check(name, gap <= _tolerance(model), f"largest relative difference {gap:.1e}")
