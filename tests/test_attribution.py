"""Attributions: what must add up does, estimates are slopes of measured effects, effects are those of plain runs."""

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from bathyscope import capture, differentiate, load, run, wrap
from bathyscope.attribution import (
    AttributionResult,
    CompletenessResult,
    attribution_patching,
    completeness,
    direct_logit_attribution,
    integrated_gradients,
    load_pairs,
    pair,
)
from bathyscope.attribution.frozen import FrozenNorm
from bathyscope.attribution.heads import head_outputs
from bathyscope.attribution.integrated import Path, mean_gradients
from bathyscope.attribution.ranks import rank_correlation
from bathyscope.embedded import embedded_status
from bathyscope.errors import InterventionError, SiteError, StorageError, UsageError
from bathyscope.generation import next_logits
from bathyscope.gradients import row_gradients
from bathyscope.interventions import Add, Replace, Write
from bathyscope.model import Model
from bathyscope.readouts import Logit, LogitDiff, LogProbability, Probability
from bathyscope.results import Result
from bathyscope.sites import Site, residual_site
from conftest import tiny_model
from families import TinyFamily
from tokenizers_for_tests import tiny_tokenizer

TEXT = "The capital of France is Paris"
ANSWER, WRONG = 7, 40
METRIC = LogitDiff(ANSWER, WRONG)
COMPONENTS = ("resid_post", "resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post")


def prompts(model: Model) -> tuple[list[int], list[int]]:
    """A clean prompt, and one that differs from it at two tokens."""
    clean = list(model.tokenize(TEXT).ids)
    corrupted = list(clean)
    corrupted[1], corrupted[3] = clean[0], clean[1] + 3
    return clean, corrupted


def components(model: Model, names: Sequence[str] = COMPONENTS) -> list[str]:
    """Those that every block of a model has."""
    there = []
    for name in names:
        try:
            for layer in range(model.n_layers):
                model.site(Site(name, layer))
        except SiteError:
            continue
        there.append(name)
    return there


def precise(family: TinyFamily) -> Model:
    """A family's model in float64, where slopes can be told from rounding."""
    return wrap(family.build("eager", torch.float64), tiny_tokenizer(), name=family.name)


def uncapped(model: Model, logits: Tensor) -> Tensor:
    cap = model.architecture.logit_softcap
    return logits.double() if cap is None else cap * torch.atanh(logits.double() / cap)


# Direct


@pytest.mark.parametrize("heads", [True, False])
def test_direct_attributions_add_up_to_the_logit(model: Model, family: TinyFamily, heads: bool):
    if family.name == "opt_post_norm":
        with pytest.raises(SiteError, match="each sum is normed after it is made"):
            direct_logit_attribution(model, TEXT, METRIC, heads=heads)
        return
    for position in (-1, 0, 2):
        logits = uncapped(model, run(model, TEXT).logits[0][position])
        for metric, wanted in ((Logit(ANSWER), logits[ANSWER]), (METRIC, logits[ANSWER] - logits[WRONG])):
            found = direct_logit_attribution(model, TEXT, metric, position=position, heads=heads)
            assert sum(node.attribution for node in found.nodes) == pytest.approx(float(wanted), abs=1e-4)
            assert found.values["logit"] == pytest.approx(float(wanted), abs=1e-4)
            assert abs(found.values["remainder"]) < 1e-4
            n_heads = sum(node.head is not None for node in found.nodes)
            assert n_heads == (family.n_layers * family.n_heads if heads else 0)


def test_heads_add_up_to_what_attention_adds(model: Model, family: TinyFamily):
    if family.name == "opt_post_norm":
        pytest.skip("it has no contributions")
    read = capture(model, TEXT, ["z.2", "attn_out.2"])
    z, added = read["z.2"][0], read["attn_out.2"][0]
    for at in (0, -1):
        parts = head_outputs(model, 2, z[at], added[at])
        assert torch.allclose(parts.heads.sum(0) + parts.bias, added[at].double(), atol=1e-5)
        assert all(one.norm() > 1e-3 for one in parts.heads)


def test_a_heads_attribution_is_its_values_through_the_weights():
    """Written out by hand for Llama: output projection, the norm's weight over its own length, unembedding."""
    model = tiny_model("llama")
    layer, head, d_head = 1, 2, 16
    read = capture(model, TEXT, [f"z.{layer}.{head}", "resid_post.3"])
    z, last = read[f"z.{layer}.{head}"][0][-1], read["resid_post.3"][0][-1]
    block, norm = model.hf.model.layers[layer], model.hf.model.norm
    added = block.self_attn.o_proj.weight[:, head * d_head : (head + 1) * d_head] @ z
    scale = (last.square().mean() + norm.variance_epsilon).rsqrt()
    wanted = model.hf.lm_head.weight[ANSWER] @ (norm.weight * scale * added)
    found = direct_logit_attribution(model, TEXT, Logit(ANSWER))
    (node,) = (node for node in found.nodes if node.site == f"z.{layer}.{head}")
    assert node.attribution == pytest.approx(float(wanted), abs=1e-5)


def test_a_metric_that_is_no_sum_of_logits_is_refused(llama: Model):
    for metric in (Probability(ANSWER), LogProbability(ANSWER)):
        with pytest.raises(UsageError, match="only logits"):
            direct_logit_attribution(llama, TEXT, metric)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one at a time"):
        direct_logit_attribution(llama, TEXT, METRIC, position="all")


@pytest.mark.parametrize("width", [8, 9, 33])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_is_frozen_whatever_it_is(width: int, kind: type[nn.Module]):
    torch.manual_seed(width)
    norm, at, other = kind(width).double(), torch.randn(width).double(), torch.randn(width).double()
    nn.init.normal_(norm.weight)
    if kind is nn.LayerNorm:
        nn.init.normal_(norm.bias)
    frozen = FrozenNorm.of(norm, at)
    assert frozen.centred == (kind is nn.LayerNorm)
    assert torch.allclose(frozen.apply(at), norm(at))
    assert torch.allclose(frozen.linear(at + other), frozen.linear(at) + frozen.linear(other))
    direction = torch.randn(width).double()
    assert float(frozen.pull_back(direction) @ other) == pytest.approx(float(frozen.linear(other) @ direction))


def test_what_is_no_norm_is_not_frozen():
    for module in (nn.Tanh(), nn.Softmax(-1), nn.Linear(8, 8, dtype=torch.float64)):
        with pytest.raises(UsageError, match="not linear when its scale is held"):
            FrozenNorm.of(module, torch.randn(8).double())


# Attribution patching


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_an_estimate_is_shift_times_gradient_and_an_effect_is_that_of_a_plain_run(model: Model, direction: str):
    clean, corrupted = prompts(model)
    base, other = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    names = components(model)
    found = attribution_patching(
        model, clean, corrupted, METRIC, sites=names, layers="embed,1,3", direction=direction, measure=None
    )
    sites = list(dict.fromkeys(".".join(node.site.split(".")[:2]) for node in found.nodes))
    read = [capture(model, one, sites) for one in (base, other)]
    slopes = differentiate(model, base, lambda logits: logits[-1, ANSWER] - logits[-1, WRONG], sites)
    plain = run(model, base).logits[0][-1]
    for node in found.nodes[:: max(1, len(found.nodes) // 40)]:
        whole = Site.parse(".".join(node.site.split(".")[:2]))
        at = (node.position,) if node.head is None else (node.position, node.head)
        shift = (read[1][whole][0] - read[0][whole][0])[at]
        assert node.attribution == pytest.approx(float((shift * slopes[whole][at]).sum()), abs=1e-3)
        write = Write(Site.parse(node.site), Replace(read[1][whole][0][at]), node.position)
        logits = run(model, base, writes=[write]).logits[0][-1]
        change = (logits[ANSWER] - logits[WRONG]) - (plain[ANSWER] - plain[WRONG])
        assert node.effect == pytest.approx(float(change), abs=1e-3)
    assert found.values["total"] == pytest.approx(
        (1 if direction == "denoising" else -1) * (found.values["clean"] - found.values["corrupted"])
    )


def test_an_estimate_is_exact_where_the_model_is_linear():
    """Behind the last block of a model without a final norm only the unembedding is left."""
    model = tiny_model("opt_post_norm")
    clean, corrupted = prompts(model)
    found = attribution_patching(model, clean, corrupted, METRIC, layers=3, measure=None)
    assert abs(found.nodes[-1].attribution) > 0.1
    for node in found.nodes:
        assert node.effect == pytest.approx(node.attribution, abs=1e-4)


def test_what_an_estimate_misses_falls_by_four_when_the_step_halves(family: TinyFamily):
    model = precise(family)
    tokens = model.tokenize(TEXT)
    # A router that chooses other experts jumps, so behind the last block where there is one.
    site = Site("resid_post", model.n_layers - 1 if family.moe_layers else 1)
    torch.manual_seed(0)
    step = torch.randn(model.d_model).double()
    # Small beside the kinks of a ReLU; elsewhere large beside the rounding of norms that compute in float32.
    size = 0.002 if family.family == "opt" else 0.02
    step *= size * capture(model, tokens, [site])[site][0][-1].norm() / step.norm()
    slope = row_gradients(model, [tokens], lambda logits: METRIC.measure(model, logits), [site]).gradients[site][0][-1]

    def missed(size: float) -> float:
        logits = next_logits(model, [tokens, tokens], writes=[Write(site, Add(step, size), -1, row=1)])
        plain, moved = METRIC.measure(model, logits).tolist()
        return moved - plain - size * float(slope @ step)

    coarse, fine = missed(1.0), missed(0.5)
    assert coarse / fine == pytest.approx(4.0, abs=1.0)
    assert abs(coarse) < 0.1 * float(slope.norm() * step.norm())


def test_gradients_of_a_batch_of_any_lengths_are_those_of_its_rows(model: Model):
    texts = [TEXT, "The cat", "x"]
    rows = [model.tokenize(text) for text in texts]
    sites = [model.site(Site(name, 1)) for name in components(model)] + [Site("embed")]
    found = row_gradients(model, rows, lambda logits: METRIC.measure(model, logits), sites, batch_size=2)
    for row, text in enumerate(texts):
        alone = differentiate(model, text, lambda logits: logits[-1, ANSWER] - logits[-1, WRONG], sites)
        for site in sites:
            assert torch.allclose(found.gradients[site][row], alone[site], rtol=1e-3, atol=1e-4), site
        assert float(found.values[row]) == pytest.approx(
            float(METRIC.measure(model, run(model, text).logits[0][-1:])), abs=1e-4
        )


def test_a_gradient_that_is_no_number_raises(llama: Model):
    with pytest.raises(InterventionError, match="not finite in torch.float32"):
        row_gradients(llama, [llama.tokenize(TEXT)], lambda logits: (logits[:, 0] * 0).sqrt(), [Site("embed")])


# Integrated gradients


def test_integrated_gradients_of_a_full_cut_add_up_to_the_difference(family: TinyFamily):
    if family.moe_layers:
        pytest.skip("a router that chooses other experts on the way jumps, and a gradient does not see that")
    model = tiny_model(family.name)
    clean, corrupted = prompts(model)
    for layer in (-1, 2):
        gaps = []
        for steps in (4, 32, 128):
            found = integrated_gradients(model, clean, corrupted, METRIC, steps=steps, layers=[layer], measure=0)
            gaps.append(abs(found.sums()[str(residual_site(layer))] - found.values["total"]))
        assert gaps[2] <= max(0.2 * gaps[0], 1e-3), (layer, gaps)
        assert gaps[2] < 0.01 * max(1.0, abs(found.values["total"])), (layer, gaps)


def test_one_step_is_the_gradient_at_the_middle(llama: Model):
    clean, corrupted = prompts(llama)
    found = integrated_gradients(llama, clean, corrupted, METRIC, steps=1, layers=1, measure=0)
    site = Site("resid_post", 1)
    start, end = capture(llama, [corrupted, clean], [site])[site]
    write = [Write(site, Replace((start + end) / 2))]
    slope = differentiate(llama, corrupted, lambda x: x[-1, ANSWER] - x[-1, WRONG], [site], writes=write)[site]
    for node, wanted in zip(found.nodes, ((end - start) * slope).sum(-1).tolist(), strict=True):
        assert node.attribution == pytest.approx(wanted, abs=1e-4)


def test_paths_of_any_lengths_share_passes(model: Model):
    site = Site("resid_post", 1)
    clean, corrupted = prompts(model)
    paths = []
    for length, metric in ((6, METRIC), (4, Logit(3))):
        start, end = capture(model, [corrupted[:length], clean[:length]], [site])[site]
        paths.append(Path(model.tokenize(corrupted[:length]), start, end, metric))
    together = mean_gradients(model, paths, site, 3)
    for one, found in zip(paths, together, strict=True):
        (alone,) = mean_gradients(model, [one], site, 3)
        assert torch.allclose(found, alone, rtol=1e-3, atol=1e-4)


def test_sites_that_are_no_cut_say_so(llama: Model):
    clean, corrupted = prompts(llama)
    found = integrated_gradients(llama, clean, corrupted, METRIC, sites="mlp_out,z", layers=1, measure=0)
    assert "do not add up" in found.notes[0] and "mlp_out, z" in found.notes[0]


NOUNS = ("key", "doctor", "girl", "boy", "farmer", "king", "book", "house", "car", "dog", "cat", "city")


def agreement(folder, nouns: Sequence[str] = NOUNS) -> str:
    lines = [
        {"clean": f"The {noun}", "corrupted": f"The {noun}s", "answer": " is", "wrong_answer": " are"} for noun in nouns
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    return str(path)


def test_what_many_pairs_add_up_to_is_what_each_does(llama: Model):
    clean, corrupted = prompts(llama)
    pairs = [pair(llama, clean, corrupted, METRIC), pair(llama, clean[:4], corrupted[:4], Logit(5))]
    found = completeness(llama, pairs, layers=[1, 2], steps=3)
    assert [one.layer for one in found.pairs] == [1, 1, 2, 2]
    for one, (ids, other, metric) in zip(
        found.pairs, 2 * [(clean, corrupted, METRIC), (clean[:4], corrupted[:4], Logit(5))], strict=True
    ):
        alone = integrated_gradients(llama, ids, other, metric, layers=[one.layer], steps=3, measure=0)
        assert one.sum == pytest.approx(sum(node.attribution for node in alone.nodes), abs=1e-3)
        assert one.total == pytest.approx(alone.values["total"], abs=1e-4)
    summary = found.summary()[0]
    assert summary["gap"] == pytest.approx(summary["mean_sum"] / summary["mean_total"] - 1)
    assert summary["gap_q0"] <= summary["gap_q50"] <= summary["gap_q100"]


@pytest.mark.embedded
@pytest.mark.skipif(not embedded_status().cached, reason="the embedded model is not in the cache")
def test_ten_steps_add_up_within_two_percent_on_a_real_model(tmp_path):
    model = load()
    pairs = load_pairs(model, agreement(tmp_path)).pairs
    assert len(pairs) >= 10
    (summary,) = completeness(model, pairs, layers=10, steps=10).summary()
    assert summary["mean_total"] > 1
    assert abs(summary["gap"]) < 0.02


# Pairs, ranks, results


def test_prompts_of_different_length_are_refused_with_both_token_lists(llama: Model):
    with pytest.raises(UsageError, match=r"(?s)2 tokens \(0 'The', 1 ' cat'\).*3 \(0 'The', 1 ' cat', 2 ' is'\)"):
        attribution_patching(llama, "The cat", "The cat is", METRIC)
    with pytest.raises(UsageError, match="same tokens"):
        integrated_gradients(llama, "The cat", "The cat", METRIC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sights": "z"}, "'sights'"),
        ({"sites": "z.1"}, "'z.1'"),
        ({"sites": "logits"}, "'logits'"),
        ({"sites": "attn_out", "layers": "embed"}, "no such site"),
        ({"direction": "forwards"}, "denoising or noising"),
        ({"measure": -1}, "measure=-1"),
    ],
)
def test_what_is_not_understood_is_refused(llama: Model, options, message: str):
    with pytest.raises(UsageError, match=message):
        attribution_patching(llama, *prompts(llama), METRIC, **options)
    with pytest.raises(UsageError, match="0 steps"):
        integrated_gradients(llama, *prompts(llama), METRIC, steps=0)


def test_pairs_come_from_our_lines_and_from_public_ones(llama: Model, tmp_path):
    lines = [
        {"clean": "The cat", "corrupted": "The The", "answer": " is", "wrong_answer": " cat"},
        {
            "clean_prefix": "The cat",
            "patch_prefix": "The is",
            "clean_answer": " is",
            "patch_answer": " cat",
            "case": "x",
        },
        {"clean": "The cat", "corrupted": "The", "answer": " is", "wrong_answer": " cat"},
        {"clean": "The cat", "corrupted": "The is", "answer": "several tokens", "wrong_answer": " cat"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    found = load_pairs(llama, path)
    assert (len(found.pairs), found.left_out) == (2, 2)
    assert found.pairs[1].metric == LogitDiff(" is", " cat")
    assert len(load_pairs(llama, path, limit=1).pairs) == 1
    path.write_text('{"clean": "x"}', "utf-8")
    with pytest.raises(UsageError, match="line 1 of .* has clean"):
        load_pairs(llama, path)
    path.write_text("no json", "utf-8")
    with pytest.raises(StorageError, match="JSON lines"):
        load_pairs(llama, path)


def test_ranks_have_their_correlation():
    assert rank_correlation([1, 2, 3, 4], [1, 8, 27, 64]) == 1.0
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    # 1 - 6 * sum of squared differences of ranks / (n^3 - n), without ties; Pearson's of mean ranks with them.
    assert rank_correlation([3, 1, 2, 5], [1, 2, 3, 4]) == pytest.approx(1 - 6 * (4 + 1 + 1) / (64 - 4), abs=1e-6)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.866025, abs=1e-6)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_a_result_keeps_what_it_says(llama: Model, tmp_path):
    clean, corrupted = prompts(llama)
    found = attribution_patching(llama, clean, corrupted, METRIC, sites="resid_post,z", measure=20)
    assert len(found.measured) == 20
    assert {node.site for node in found.measured} <= {node.site for node in found.strongest(20)}
    again = Result.load(found.save(tmp_path / "a.json"))
    assert isinstance(again, AttributionResult)
    assert again.rows() == found.rows() and again.rank_correlation == found.rank_correlation
    assert set(found.rows()[0]) >= {"site", "layer", "head", "position", "token", "attribution", "effect"}
    assert json.loads(found.to_json())["rank_correlation"] == found.rank_correlation
    page = found.to_html()
    assert "attribution at z, summed over positions" in page and 'class="below' in page
    summed = sum(node.attribution for node in found.nodes if node.site == "z.2.1")
    (heads,) = (one for one in found.maps() if "at z" in one.heading)
    assert heads.rows["2"][1] == pytest.approx(summed)
    many = completeness(llama, [pair(llama, clean, corrupted, METRIC)], layers=1, steps=2)
    assert isinstance(Result.load(many.save(tmp_path / "c.json")), CompletenessResult)
    assert "mean_total" in many.to_html()


def test_effects_have_a_map_where_all_were_measured(llama: Model):
    clean, corrupted = prompts(llama)
    found = attribution_patching(llama, clean, corrupted, METRIC, measure=None)
    assert [one.heading for one in found.maps()] == ["attribution at resid_post", "effect at resid_post"]
    assert next(iter(found.maps()[0].rows)) == "3" and list(found.maps()[0].rows)[-1] == "embed"
    fewer = attribution_patching(llama, clean, corrupted, METRIC, measure=3)
    assert [one.heading for one in fewer.maps()] == ["attribution at resid_post"]
