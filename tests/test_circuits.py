"""Circuits: what theory says of parts, effects and faithfulness, and slow references of each."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bathyscope import capture, run, wrap
from bathyscope.causal.pairs import pair
from bathyscope.circuits import (
    Basis,
    Circuit,
    Directions,
    Examples,
    Feature,
    Gates,
    Judge,
    Latents,
    MaskSettings,
    Parts,
    Stage,
    Units,
    feature_attributions,
    feature_edges,
    feature_effects,
    learned_circuit,
    mean_parts,
    ranked_circuit,
)
from bathyscope.circuits.attributions import Baseline, Method, one_pass_gradients
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.runs import gradients_at
from bathyscope.circuits.sums import site_sums
from bathyscope.circuits.writes import LetThrough
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model
from bathyscope.readouts import Logit, LogitDiff
from bathyscope.relevance import relevance
from bathyscope.sae import KeepAbove
from bathyscope.sites import Site
from bathyscope.starts import read_starts
from coders_for_tests import identity_coder, random_coder, width_of
from conftest import tiny_model
from families import ALL, TinyFamily
from tokenizers_for_tests import tiny_tokenizer

ANSWER, WRONG = 7, 40
STEP = 3e-3
SITES = ("resid_post.0", "resid_post.2")


def examples_of(model: Model, n: int = 6, length: int = 5) -> Examples:
    """Prompts that differ at one or two tokens."""
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for _ in range(n):
        clean = torch.randint(10, 60, (length,), generator=generator).tolist()
        corrupted = [clean[0], clean[1] + 3, *clean[2:]]
        pairs.append(pair(model, clean, corrupted, LogitDiff(ANSWER, WRONG)))
    return Examples(model, pairs, [str(number // 2) for number in range(n)], ["a", "b"] * (n // 2))


def precise(name: str) -> Model:
    return wrap(ALL[name].build("eager", torch.float64), tiny_tokenizer(), name=name)


def coders(model: Model, sites: tuple[str, ...] = SITES) -> dict[Site | str, Basis]:
    return {
        site: Latents(random_coder(model.d_model, n_latents=40, k=5, seed=number)) for number, site in enumerate(sites)
    }


def mean_over_prompts(parts: Parts) -> Parts:
    return Parts(parts.features.mean(0), parts.error.mean(0))


def everything(bases: Mapping[Site | str, Basis], length: int, *, errors: bool = True) -> Circuit:
    return Circuit(
        bases,
        [
            Feature(str(site), position, index)
            for site, basis in bases.items()
            for position in range(length)
            for index in [*range(basis.n_features), *([None] if errors else [])]
        ],
        "nodes" if errors else "ablated",
    )


# Parts


def test_1_parts_are_joined_to_what_was_taken_apart():
    x = torch.randn(3, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bases = [
        Latents(random_coder(48)),
        Units(48),
        Units(48, size=12),
        Directions(torch.randn(4, 48, generator=torch.Generator().manual_seed(1)).double()),
    ]
    for basis in bases:
        parts = basis.split(x)
        assert torch.allclose(basis.joined(parts), x, rtol=1e-6, atol=1e-6)
        assert basis.explains_all == (not parts.error.any())


def test_directions_are_orthonormal_and_the_first_is_kept():
    rows = torch.tensor([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]])
    basis = Directions(rows)
    assert torch.allclose(basis.rows @ basis.rows.T, torch.eye(2), atol=1e-6)
    assert torch.allclose(basis.rows[0], torch.tensor([0.6, 0.8, 0.0]))
    with pytest.raises(UsageError, match="not independent"):
        Directions(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))


def test_first_order_effects_are_differences_of_what_is_joined():
    """<gradient, join(parts + change) - join(parts)>, feature by feature."""
    generator = torch.Generator().manual_seed(0)
    x, y, gradient = (torch.randn(2, 3, 48, dtype=torch.float64, generator=generator) for _ in range(3))
    for basis in (Latents(random_coder(48)), Units(48, size=12)):
        one, other = basis.split(x), basis.split(y)
        found = basis.attributions(gradient, other - one)
        assert torch.allclose(found.sum(-1), (gradient * (y - x)).sum(-1), atol=1e-5)
        alone = torch.zeros_like(one.features)
        alone[..., 12:24] = (other - one).features[..., 12:24]
        wanted = (gradient * basis.written(alone)).sum(-1)
        places = slice(1, 2) if basis.size == 12 else slice(12, 24)
        assert torch.allclose(found[..., places].sum(-1), wanted, atol=1e-5)


# Attributions


def slow_effects(model: Model, examples: Examples, site: Site, basis: Basis, steps: int) -> Tensor:
    """Integrated gradients by plain runs and small differences along every feature: no gradient, no shortcut.

    Norms compute in float32 whatever the dtype, so that steps must not be too small.
    """
    found = torch.zeros(len(examples), examples.length, basis.n_features + 1, dtype=torch.float64)
    for number, one in enumerate(examples.pairs):
        end, start = (capture(model, tokens, [site])[site][0].flatten(1) for tokens in (one.clean, one.corrupted))
        change = basis.split(end) - basis.split(start)
        for step in range(steps):
            middle = torch.lerp(start, end, (step + 0.5) / steps)
            for position in range(examples.length):
                for index in range(basis.n_features + 1):
                    moved = torch.zeros_like(end)
                    if index == basis.n_features:
                        moved[position] = change.error[position]
                    else:
                        own = slice(index * basis.size, (index + 1) * basis.size)
                        only = torch.zeros_like(change.features)
                        only[position, own] = change.features[position, own]
                        moved = basis.written(only)
                    if not moved.any():
                        continue
                    values = [difference(model, one.clean, site, middle + sign * STEP * moved) for sign in (1, -1)]
                    found[number, position, index] += (values[0] - values[1]) / (2 * STEP) / steps
    return found


def difference(model: Model, tokens, site: Site, value: Tensor) -> float:
    shape = capture(model, tokens, [site])[site][0].shape
    logits = run(model, tokens, writes=[Write(site, Replace(value.reshape(shape)))]).logits[0][-1]
    return float(logits[ANSWER] - logits[WRONG])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_effects_are_those_of_small_steps_along_each_feature(name: str):
    model = precise(name)
    examples = examples_of(model, 2)
    for text, basis in {
        "resid_post.1": Latents(random_coder(model.d_model, n_latents=12, k=3)),
        "mlp_out.2": Latents(random_coder(model.d_model, n_latents=12, k=3)),
        "z.1": Units(width_of(model, Site.parse("z.1")), size=model.architecture.d_head),
        "embed": Directions(torch.eye(model.d_model)[:3].double()),
    }.items():
        site = Site.parse(text)
        found = feature_attributions(examples, {site: basis}, steps=2)
        missed = (found.pairs(site).double() - slow_effects(model, examples, site, basis, 2)).abs().max()
        assert float(missed) < 1e-3 * float(found.pairs(site).abs().max()), text


def test_4_effects_of_a_full_cut_add_up_and_5_those_of_others_do_not(model: Model, family: TinyFamily):
    if family.moe_layers:
        pytest.skip("which expert a token is sent to jumps on the way between the runs")
    examples = examples_of(model)
    bases = coders(model)
    gaps = []
    for steps in (2, 32):
        found = feature_attributions(examples, bases, steps=steps)
        gaps.append([float((found.sums(one) - found.totals[one]).abs().mean()) for one in found.sites])
    whole = found.totals[Site.parse(SITES[0])]
    scale = float(whole.abs().mean())
    plain = [[run(model, rows).logits[0][-1] for rows in (one.clean, one.corrupted)] for one in examples.pairs]
    wanted = [float((one - other)[ANSWER] - (one - other)[WRONG]) for one, other in plain]
    assert whole.tolist() == pytest.approx(wanted, abs=1e-3 * max(map(abs, wanted)) + 1e-4)
    assert max(gaps[1]) < 0.02 * scale and sum(gaps[1]) <= sum(gaps[0]) + 1e-3 * scale
    site = Site("z", 1)
    partly = feature_attributions(examples, {site: Units(width_of(model, site))}, steps=32)
    assert float((partly.sums(site) - whole).abs().mean()) > 0.05 * scale
    assert float((partly.sums(site) - partly.totals[site]).abs().mean()) < 0.02 * scale, "its own total, it closes"


def test_one_gradient_serves_every_basis(llama: Model):
    examples, bases = examples_of(llama), coders(llama)
    units: dict[Site | str, Basis] = {site: Units(llama.d_model) for site in SITES}
    known = feature_attributions(examples, units)
    wanted = feature_attributions(examples, bases)
    for site in wanted.sites:
        assert torch.allclose(known.in_bases(bases).pairs(site), wanted.pairs(site), atol=1e-5)
    with pytest.raises(UsageError, match="gradients are known at"):
        known.in_bases({"resid_post.3": Units(llama.d_model)})
    with pytest.raises(UsageError, match="compare with zero"):
        feature_attributions(examples, bases, baseline="zero").in_bases(units)


@pytest.mark.parametrize("method", ["attribution-patching", "relp"])
def test_one_pass_gives_the_gradients_of_every_site(model: Model, family: TinyFamily, method: Method):
    """What a pass a site gives, with the site's own value written there."""
    examples = examples_of(model, 4)
    sites = [model.site(text) for text in ("embed", "resid_post.1", "z.1", "resid_post.2")]
    try:
        found = one_pass_gradients(examples, sites, method)
    except UsageError:
        assert method == "relp", "a model that relevance refuses"
        return
    for site in sites:
        values = [one.flatten(1) for one in capture(model, examples.clean, [site])[site]]
        start = read_starts(model, examples.clean, [-1])[0][-1]
        with relevance(model, model.n_layers) if method == "relp" else nullcontext():
            _, wanted = gradients_at(model, examples.clean, examples.answers, site, torch.stack(values), start)
        assert torch.allclose(found[site], wanted, atol=1e-4 * float(wanted.abs().max())), site


@pytest.mark.parametrize("errors", [0.0, 0.3, 1.0])
def test_what_is_let_through_is_what_gates_say(errors: float):
    """Taken apart, put behind gates, and joined: the definition, with gradients by what is there and by the gates."""
    generator = torch.Generator().manual_seed(0)
    for basis in (
        Latents(random_coder(24, n_latents=40, k=5)),
        Latents(replace(random_coder(24, n_latents=40), selection=KeepAbove(torch.tensor(0.2)))),
        Units(24, size=6),
        Directions(torch.randn(3, 24, generator=generator)),
    ):
        x, other = (torch.randn(3, 2, 24, generator=generator) for _ in range(2))
        reference = mean_over_prompts(basis.split(other))
        shares = torch.rand(2, reference.features.shape[-1], generator=generator)
        found = []
        for quick in (True, False):
            own, gates = x.clone().requires_grad_(), shares.clone().requires_grad_()
            let = LetThrough(basis, Gates(gates, torch.full((2,), errors)), reference)
            if quick:
                value = let.apply(own)
            else:
                parts = basis.split(own) * let.gates + reference * let.gates.complement()
                value = basis.joined(parts)
            found.append((value, *torch.autograd.grad((value * other).sum(), [own, gates])))
        for quick, slow in zip(*found, strict=True):
            assert torch.allclose(quick, slow, atol=1e-5), type(basis)


def test_6_where_all_that_follows_is_linear_attributions_are_effects():
    """No norm follows the last block of this one: the metric is linear in its residual stream."""
    model = precise("opt_post_norm")
    site = Site("resid_post", model.n_layers - 1)
    examples, bases = examples_of(model), {site: Latents(random_coder(model.d_model, n_latents=20, k=4))}
    integrated = feature_attributions(examples, bases, steps=3)
    gradient = feature_attributions(examples, bases, method="attribution-patching")
    assert torch.allclose(integrated.pairs(site), gradient.pairs(site), atol=1e-8)
    compared = feature_effects(integrated, [one for one, _ in integrated.top(15)])
    assert compared.effects == pytest.approx(compared.attributions, abs=1e-6)
    assert compared.rank_correlation == pytest.approx(1) and max(map(abs, compared.effects)) > 1e-2


def test_8_the_other_way_round_with_the_answers_swapped_is_the_same(llama: Model):
    examples = examples_of(llama)
    swapped = [pair(llama, one.corrupted.ids, one.clean.ids, LogitDiff(WRONG, ANSWER)) for one in examples.pairs]
    bases = {"resid_post.1": Latents(random_coder(llama.d_model))}
    site = Site("resid_post", 1)
    one, other = (feature_attributions(some, bases) for some in (examples, Examples(llama, swapped)))
    assert torch.allclose(one.pairs(site), other.pairs(site), atol=1e-5) and one.pairs(site).abs().max() > 1e-3


def test_9_the_number_of_pairs_together_changes_nothing(llama: Model, monkeypatch: pytest.MonkeyPatch):
    examples, bases = examples_of(llama, 8), coders(llama)
    whole = feature_attributions(examples, bases)
    monkeypatch.setattr("bathyscope.circuits.runs.GRAPH_TOKENS", 16)
    monkeypatch.setattr("bathyscope.circuits.runs.TOKENS", 16)
    monkeypatch.setattr("bathyscope.circuits.ends.ROWS", 3)
    again = feature_attributions(examples, bases)
    for site in whole.sites:
        assert torch.allclose(whole.pairs(site), again.pairs(site), atol=1e-5)
    alone = feature_attributions(examples.part([5]), bases)
    assert torch.allclose(alone.pairs(site)[0], whole.pairs(site)[5], atol=1e-5)


def test_10_what_does_not_change_has_no_effect(llama: Model):
    examples, bases = examples_of(llama), coders(llama)
    found = feature_attributions(examples, bases)
    for site in found.sites:
        assert not found.pairs(site)[:, 0].any(), "the first token is the same in both runs"
        silent = (bases[str(site)].split(capture(llama, examples.clean, [site])[site][0]).features == 0).all()
        assert not silent
    assert all(one.position > 0 for one, _ in found.top(10_000))


def test_effects_are_plain_runs(llama: Model):
    examples, site = examples_of(llama), Site("resid_post", 1)
    basis = Latents(random_coder(llama.d_model))
    effects = feature_attributions(examples, {site: basis})
    chosen = [one for one, _ in effects.top(4)] + [Feature(str(site), 2, None)]
    found = feature_effects(effects, chosen)
    for one, effect in zip(chosen, found.effects, strict=True):
        wanted = []
        for each in examples.pairs:
            clean, corrupted = (capture(llama, tokens, [site])[site][0] for tokens in (each.clean, each.corrupted))
            change = basis.split(corrupted) - basis.split(clean)
            after = clean.clone()
            if one.index is None:
                after[one.position] += change.error[one.position]
            else:
                after[one.position] += change.features[one.position, one.index] * basis.coder.decoder[one.index]
            wanted.append(difference(llama, each.clean, site, clean) - difference(llama, each.clean, site, after))
        assert effect == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)


@pytest.mark.parametrize("baseline", ["corrupted", "mean", "zero"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_attributions_add_up_to_what_the_baseline_does(name: str, baseline: Baseline):
    """At any site, their sum is the clean run's logit difference less that with the baseline in the site's place."""
    model = precise(name)
    examples = examples_of(model)
    bases: dict[Site | str, Basis] = {
        **coders(model),
        "mlp_out.1": Latents(random_coder(model.d_model, n_latents=30, k=4)),
        "z.1": Units(width_of(model, Site.parse("z.1")), size=model.architecture.d_head),
    }
    found = feature_attributions(examples, bases, baseline=baseline, steps=64)
    for site in found.sites:
        basis = found.basis(site)
        clean, corrupted = (capture(model, rows, [site])[site] for rows in (examples.clean, examples.corrupted))
        whole = torch.stack(list(corrupted)).flatten(2)
        there = {
            "corrupted": whole,
            "mean": basis.joined(mean_over_prompts(basis.split(whole))).expand_as(whole),
            "zero": torch.zeros_like(whole) + basis.constant,
        }[baseline]
        ends = [torch.stack(list(clean)).flatten(2), there]
        wanted = [
            difference(model, one.clean, site, own) - difference(model, one.clean, site, other)
            for one, own, other in zip(examples.pairs, *ends, strict=True)
        ]
        assert found.totals[site].tolist() == pytest.approx(wanted, abs=1e-4)
        missed = (found.sums(site) - torch.tensor(wanted, dtype=torch.float64)).abs()
        assert float(missed.mean()) < 0.02 * max(map(abs, wanted)) + 1e-4, site


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_effects_and_edges_compare_with_the_same_baseline(baseline: Baseline):
    """Where all that follows is linear, attribution, effect and edge are the same number."""
    model = precise("opt_post_norm")
    site = Site("resid_post", model.n_layers - 1)
    bases = {site: Latents(random_coder(model.d_model, n_latents=20, k=4))}
    found = feature_attributions(examples_of(model), bases, baseline=baseline, steps=2)
    chosen = [one for one, _ in found.top(15)] + [Feature(str(site), 4, None)]
    compared = feature_effects(found, chosen)
    assert compared.effects == pytest.approx(compared.attributions, abs=1e-6)
    weights = {edge.source: edge.weight for edge in feature_edges(found, chosen)}
    assert [weights[one] for one in chosen] == pytest.approx(compared.effects, abs=1e-6)
    plain = feature_attributions(examples_of(model), bases, steps=2)
    assert not torch.allclose(plain.pairs(site), found.pairs(site), atol=1e-3), "of a pair, another baseline says more"


def test_11_ranks_of_attributions_and_effects_stand_beside_each_sum(llama: Model):
    found = feature_attributions(examples_of(llama), coders(llama))
    (first, second) = site_sums(found, effects=12)
    compared = feature_effects(found, [one for one, _ in found.top(12, [Site.parse(SITES[1])])])
    sizes = [sorted(map(abs, ones)) for ones in (compared.attributions, compared.effects)]
    ranks = [
        [ones.index(abs(one)) for one in values]
        for ones, values in zip(sizes, (compared.attributions, compared.effects), strict=True)
    ]
    wanted = float(torch.corrcoef(torch.tensor(ranks, dtype=torch.float64))[0, 1])
    assert second["effects"] == 12 and second["rank_correlation"] == pytest.approx(wanted)
    close = [abs(a - e) <= 0.2 * abs(e) for a, e in zip(compared.attributions, compared.effects, strict=True)]
    assert second["near"] == pytest.approx(sum(close) / 12) and 0 <= first["near"] <= 1
    assert "effects" not in next(iter(site_sums(found)))


# Edges


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_7_edges_add_up_at_both_ends(name: str):
    """All edges into a feature are its linearised effect; all edges out of one are its own effect."""
    model = precise(name)
    examples = examples_of(model, 2)
    texts = ("resid_post.0", "attn_out.1", "mlp_out.1", "resid_post.1", "resid_post.2")
    bases = {text: Latents(random_coder(model.d_model, n_latents=10, k=4, seed=n)) for n, text in enumerate(texts)}
    effects = feature_attributions(examples, bases, method="attribution-patching")
    features = sorted(everything(bases, examples.length).features, key=str)
    found = feature_edges(effects, features)
    out = {one: 0.0 for one in features}
    into = {one: 0.0 for one in features}
    for edge in found:
        out[edge.source] += edge.weight
        if edge.target is not None:
            into[edge.target] += edge.weight
    for one in features:
        site = Site.parse(one.site)
        own = float(effects.mean(site)[one.position, -1 if one.index is None else one.index])
        assert out[one] == pytest.approx(own, abs=1e-5), one
    cut = Site("resid_post", 0)
    change = (capture(model, examples.clean, [cut])[cut], capture(model, examples.corrupted, [cut])[cut])
    for text in ("attn_out.1", "mlp_out.1", "resid_post.1"):
        for index, position in ((0, 1), (None, 4)):
            one = Feature(text, position, index)
            if text == "attn_out.1":
                wanted = slope_along(model, examples, effects, one, cut, change)
                assert into[one] == pytest.approx(wanted, rel=2e-3, abs=1e-4), one
    assert sum(edge.target is None for edge in found) > 5 and any(edge.source.index is None for edge in found)


def slope_along(model: Model, examples: Examples, effects, one: Feature, cut: Site, change) -> float:
    """How a feature, times the metric's gradient by it, changes as the cut below goes from clean to corrupted."""
    site, basis = Site.parse(one.site), effects.basis(Site.parse(one.site))
    total = 0.0
    for number, pair_ in enumerate(examples.pairs):
        clean, corrupted = change[0][number], change[1][number]
        values = []
        for sign in (1, -1):
            write = Write(cut, Replace(clean + sign * STEP * (clean - corrupted)))
            parts = basis.split(run(model, pair_.clean, reads=[site], writes=[write]).activations[site][0])
            gradient = effects.gradients[site][number]
            if one.index is None:
                values.append(float(parts.error[one.position] @ gradient[one.position]))
            else:
                pulled = basis.pulled(gradient)[one.position, one.index]
                values.append(float(parts.features[one.position, one.index] * pulled))
        total += (values[0] - values[1]) / (2 * STEP)
    return total / len(examples)


# Circuits


def test_2_everything_is_the_model_and_nothing_is_nothing(model: Model, family: TinyFamily):
    examples, bases = examples_of(model), coders(model)
    stage = Stage.of(examples, bases)
    judge = Judge.of(stage)
    plain = [run(model, one.clean).logits[0][-1] for one in examples.pairs]
    wanted = torch.stack([one[ANSWER] - one[WRONG] for one in plain]).double()
    assert torch.allclose(judge.whole, wanted, atol=1e-4), "latents and errors together change no logit"
    whole, nothing = judge.judge(everything(bases, examples.length)), judge.judge(Circuit(bases, []))
    assert whole.faithfulness == pytest.approx(1, abs=1e-6) and whole.completeness == pytest.approx(0, abs=1e-6)
    assert nothing.faithfulness == pytest.approx(0, abs=1e-6) and nothing.completeness == pytest.approx(1, abs=1e-6)
    assert whole.distance < 1e-6 and nothing.distance == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("ablation", ["mean", "zero", "resample"])
def test_a_circuit_is_a_plain_run_with_each_site_rewritten(llama: Model, ablation: str):
    """Site after site by plain runs, each reading what the one before it left."""
    examples, bases = examples_of(llama), coders(llama)
    stage = Stage.of(examples, bases, ablation=ablation, seed=1)  # type: ignore[arg-type]
    circuit = ranked_circuit(feature_attributions(examples, bases), 12)
    found = Judge.of(stage).judge(circuit)
    values = []
    for number, one in enumerate(examples.pairs):
        writes: list[Write] = []
        for text, basis in bases.items():
            site = Site.parse(str(text))
            x = run(llama, one.clean, reads=[site], writes=writes).activations[site][0]
            parts, gates = basis.split(x), circuit.gates(site, examples.length, basis)
            reference = stage.references[site]
            reference = reference[number] if reference.error.ndim == 3 else reference
            kept = parts * gates + reference * gates.complement()
            writes.append(Write(site, Replace(basis.joined(kept))))
        logits = run(llama, one.clean, writes=writes).logits[0][-1]
        values.append(float(logits[ANSWER] - logits[WRONG]))
    assert found.circuit == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert found.accuracy == sum(value > 0 for value in values) / len(values)
    assert found.size == 12 and abs(found.faithfulness - 1) > 1e-3


def test_the_mean_is_that_of_corrupted_prompts(llama: Model):
    examples, bases = examples_of(llama), coders(llama)
    site = Site("resid_post", 2)
    found = mean_parts(examples, bases)[site]
    parts = [bases[str(site)].split(capture(llama, tokens, [site])[site][0]) for tokens in examples.corrupted]
    assert torch.allclose(found.features, torch.stack([one.features for one in parts]).mean(0), atol=1e-5)
    assert torch.allclose(found.error, torch.stack([one.error for one in parts]).mean(0), atol=1e-5)


def test_3_a_coder_that_loses_nothing_has_no_error_and_is_its_neurons(llama: Model):
    examples = examples_of(llama)
    width = llama.d_model
    coded = {site: Latents(identity_coder(width)) for site in SITES}
    plain = {site: Units(width) for site in SITES}
    stages = [Stage.of(examples, bases) for bases in (coded, plain)]
    effects = [feature_attributions(examples, bases) for bases in (coded, plain)]
    for text in SITES:
        site = Site.parse(text)
        both = effects[0].pairs(site)
        assert torch.allclose(both[..., :width] + both[..., width:-1], effects[1].pairs(site)[..., :-1], atol=1e-5)
        assert float(both[..., -1].abs().max()) < 1e-5
    chosen = ranked_circuit(effects[1], 30).features
    doubled = [Feature(one.site, one.position, i) for one in chosen for i in (one.index, one.index + width)]
    found = [
        Judge.of(stage).judge(Circuit(SITES, ones, "ablated"))
        for stage, ones in zip(stages, (doubled, chosen), strict=True)
    ]
    assert found[0].faithfulness == pytest.approx(found[1].faithfulness, abs=1e-4)
    without = Judge.of(stages[0]).judge(everything(coded, examples.length, errors=False))
    assert without.faithfulness == pytest.approx(1, abs=1e-4)


def test_an_interval_holds_the_value_and_is_of_groups(llama: Model):
    examples, bases = examples_of(llama, 12), coders(llama)
    judge = Judge.of(Stage.of(examples, bases))
    circuit = ranked_circuit(feature_attributions(examples, bases), 20)
    found = judge.judge(circuit)
    assert found.low < found.faithfulness < found.high
    one = Examples(llama, examples.pairs, ["same"] * 12, examples.cases)
    single = Judge.of(Stage.of(one, bases)).judge(circuit)
    assert single.low == pytest.approx(single.high), "one group cannot be drawn differently"
    assert set(found.by_case) == {"a", "b"}
    means = [sum(pair) / 2 for pair in zip(*found.by_case.values(), strict=True)]
    assert means == pytest.approx([found.model, found.circuit])


def test_errors_are_nodes_or_ablated_or_kept(llama: Model):
    examples, bases = examples_of(llama), coders(llama)
    stage = Stage.of(examples, bases)
    effects = feature_attributions(examples, bases)
    sizes = {errors: ranked_circuit(effects, 10, errors=errors) for errors in ("nodes", "ablated", "kept")}
    assert any(one.index is None for one in sizes["nodes"].features)
    assert not any(one.index is None for one in sizes["ablated"].features | sizes["kept"].features)
    found = {errors: Judge.of(stage).judge(circuit).circuit for errors, circuit in sizes.items()}
    assert len({round(value, 4) for value in found.values()}) == 3
    free = Judge.of(stage, errors_kept=True).judge(Circuit(bases, [], "kept"))
    assert free.faithfulness == pytest.approx(0, abs=1e-6)


# Masks


def test_a_mask_finds_the_features_that_were_planted():
    """The model reads the answer off four of many coordinates: a small mask keeps what matters, and is faithful."""
    model = precise("opt_post_norm")
    site = Site("resid_post", model.n_layers - 1)
    examples, bases = examples_of(model, 16), {site: Units(model.d_model)}
    effects = feature_attributions(examples, bases)
    stage = Stage.of(examples, bases)
    judge = Judge.of(stage)
    found = {}
    settings = MaskSettings(candidates=200, steps=200, pairs=16, learning_rate=0.1)
    for penalty in (0.003, 0.3):
        found[penalty] = judge.judge(learned_circuit(stage, effects, penalty, settings))
    assert found[0.3].size < found[0.003].size < 200
    assert found[0.003].faithfulness == pytest.approx(1, abs=0.1)
    ranked = judge.judge(ranked_circuit(effects, found[0.003].size))
    assert found[0.003].distance <= ranked.distance + 0.02


def test_a_mask_is_the_same_for_a_seed(llama: Model):
    examples, bases = examples_of(llama), coders(llama)
    effects, stage = feature_attributions(examples, bases), Stage.of(examples, bases)
    settings = MaskSettings(candidates=60, steps=10, pairs=4)
    one, other = (learned_circuit(stage, effects, 0.3, settings) for _ in range(2))
    assert one == other and 0 < len(one) <= 60


@pytest.mark.parametrize("stopped_at", [3, 10, 17])
def test_a_mask_that_was_stopped_goes_on_to_the_same_mask(llama: Model, tmp_path: Path, stopped_at: int):
    examples, bases = examples_of(llama), coders(llama)
    effects, stage = feature_attributions(examples, bases), Stage.of(examples, bases)
    settings = MaskSettings(candidates=60, steps=25, pairs=4)
    whole = learned_circuit(stage, effects, 0.3, settings)
    stop, kept, done = Stop(), Kept(tmp_path, {}), []

    def progress(step: int, steps: int) -> None:
        done.append(step)
        stop.soon = step == stopped_at

    with pytest.raises(CancelledError):
        learned_circuit(stage, effects, 0.3, settings, kept=kept, progress=progress, stop=stop)
    done.clear()
    assert learned_circuit(stage, effects, 0.3, settings, kept=kept, progress=progress, stop=Stop()) == whole
    assert done == list(range(stopped_at // 10 * 10 + 1, 26)), "only what was not kept is computed again"
    states = [load_file(path)["value"] for path in sorted(tmp_path.rglob("*25 steps*"))]
    learned_circuit(stage, effects, 0.3, settings, kept=Kept(tmp_path / "whole", {}))
    assert torch.equal(states[0], load_file(next((tmp_path / "whole").rglob("*25 steps*")))["value"])


# Refusals and records


def test_a_feature_is_what_was_written():
    for text in ("resid_post.12/281@1", "z.3/0@4", "embed/error@0"):
        assert str(Feature.parse(text)) == text
    circuit = Circuit(SITES, [Feature(SITES[0], 1, 3), Feature(SITES[1], 2, None)])
    assert Circuit.from_dict(circuit.to_dict()) == circuit


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, e: Examples(m, []), "no pair"),
        (lambda m, e: Examples(m, e.pairs, ["a"]), "1 groups"),
        (lambda m, e: Examples(m, [*e.pairs, pair(m, "a b", "a c", LogitDiff(1, 2))]), "pair 6 has"),
        (lambda m, e: Examples(m, [pair(m, "a b", "a c", Logit(1))]), "circuits explain a LogitDiff"),
        (lambda m, e: Feature.parse("resid_post.12"), "is no feature"),
        (lambda m, e: Circuit(SITES, [Feature("resid_post.1", 0, 0)]), "features of its sites"),
        (lambda m, e: Circuit(SITES, [Feature(SITES[0], 0, None)], "ablated"), "errors='nodes'"),
        (lambda m, e: Circuit(SITES, [], "some"), "errors='some'"),
        (lambda m, e: feature_attributions(e, {}), "no site"),
        (lambda m, e: feature_attributions(e, coders(m), steps=0), "0 steps"),
        (lambda m, e: feature_attributions(e, {"resid_post.0": Units(7)}), "width 7"),
        (lambda m, e: feature_attributions(e, coders(m), method="exact"), "method='exact'"),
        (lambda m, e: feature_attributions(e, coders(m), baseline="median"), "baseline='median'"),
        (lambda m, e: Stage.of(e, coders(m), ablation="noise"), "ablation='noise'"),
        (lambda m, e: Stage.of(e, coders(m)).gates(Circuit(SITES[:1], [])), "the sites are"),
        (
            lambda m, e: Stage.of(e, coders(m)).gates(Circuit(SITES, [Feature(SITES[0], 9, 0)])),
            "positions 0 to 4",
        ),
        (lambda m, e: Units(48, size=7), "a divisor"),
        (lambda m, e: Latents(random_coder(48, 48, site=Site("mlp_out", 0), target=Site("mlp_out", 1))), "transcoder"),
        (lambda m, e: MaskSettings(steps=0), "at least one"),
    ],
)
def test_what_makes_no_circuit_is_refused(make, message: str):
    model = tiny_model()
    with pytest.raises(UsageError, match=message):
        make(model, examples_of(model))
