"""Attribution graphs: an edge is what doubling its source changes, and a target is what its edges add up to.

The slow reference is the Hugging Face model with patterns and norm scales held by hooks (`frozen_forward`).
"""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from bathyscope import capture, run, wrap
from bathyscope.circuits.attribution_graphs import (
    AttributionGraph,
    Likeliest,
    Node,
    attribution_graph,
    cantor_pair,
    cantor_unpair,
    check_graph_json,
    to_neuronpedia,
)
from bathyscope.circuits.attribution_graphs.attention import FrozenAttention, linear_map
from bathyscope.circuits.attribution_graphs.local import LocalModel
from bathyscope.circuits.attribution_graphs.mlp import is_parallel
from bathyscope.circuits.attribution_graphs.norms import FrozenNorms
from bathyscope.circuits.attribution_graphs.patterns import attention_patterns
from bathyscope.circuits.attribution_graphs.rows import Rows
from bathyscope.circuits.attribution_graphs.scores import Shares, most_of
from bathyscope.circuits.attribution_graphs.sweep import Targets, sweep
from bathyscope.errors import BathyscopeError, SiteError, StorageError, UsageError
from bathyscope.model import Model
from bathyscope.readouts import LogitDiff
from bathyscope.results import Result
from bathyscope.sae import KeepAbove, SparseCoder
from bathyscope.sites import Site
from coders_for_tests import blind_coder, random_coder
from conftest import tiny_model
from families import ALL, D_MODEL, N_LAYERS, TinyFamily
from frozen_forward import FrozenForward
from tokenizers_for_tests import tiny_tokenizer

IDS = [5, 17, 300, 42, 99, 7, 250]
DIFFERENT = [
    "gpt2",
    "llama",
    "gpt_neox",
    "phi",
    "falcon_40b",
    "falcon_rw",
    "gemma2_sliding",
    "olmo2",
    "granite_multipliers",
    "cohere_qk_norm",
    "bloom",
    "opt",
    "gpt_neo_local",
]
"""Sequential and parallel, LayerNorm and RMSNorm, norms before and after, shared keys, multipliers, alibi, windows."""
IN_DOUBLES = {"gpt2", "gpt_neox", "phi", "falcon_40b", "falcon_rw", "bloom", "opt", "gpt_neo_local"}
"""Families whose norms compute in the model's own dtype; the others' compute in float32."""


@cache
def doubles(name: str) -> Model:
    return wrap(ALL[name].build("eager", torch.float64), tiny_tokenizer(), name=name)


def transcoder(model: Model, layer: int, site: str = "", **about) -> SparseCoder:
    site = site or f"resid_{'pre' if is_parallel(model) else 'mid'}.{layer}"
    return random_coder(D_MODEL, seed=layer, site=Site.parse(site), target=Site("mlp_out", layer), **about)


def transcoders(model: Model) -> list[SparseCoder]:
    """Layers 0, 1 and 3; one has a linear path and a centre, and reads the stream before its block."""
    generator = torch.Generator().manual_seed(9)
    first, second, last = transcoder(model, 0), transcoder(model, 1, "resid_post.0"), transcoder(model, 3)
    skip, centre = torch.randn(D_MODEL, D_MODEL, generator=generator) / 7, torch.randn(D_MODEL, generator=generator)
    return [first, replace(second, skip=skip, centre=centre), last]


def local_of(name: str, **options) -> LocalModel:
    model = doubles(name)
    return LocalModel.of(model, model.tokenize(IDS), transcoders(model), **options)


def all_rows(local: LocalModel) -> tuple[Tensor, Tensor]:
    targets = Targets.features(local, torch.arange(local.n_features))
    return sweep(local, targets), targets.values


def reference(name: str, sinks: int = 1) -> FrozenForward:
    return FrozenForward(doubles(name), IDS, transcoders(doubles(name)), sinks)


def column_of(local: LocalModel, part: str) -> slice:
    """The columns of a part as `FrozenForward` names it; errors of sinks stand elsewhere."""
    kind, _, layer = part.partition(".")
    columns = local.columns
    return columns.tokens if kind == "tokens" else getattr(columns, kind)[int(layer)]


# 13 and 18: edges


@pytest.mark.parametrize("name", DIFFERENT)
def test_18_the_sweep_is_autograd(name: str):
    local, slow = local_of(name), reference(name)
    found, _ = all_rows(local)
    factors = {part: one.requires_grad_() for part, one in slow.ones().items()}
    wanted = torch.cat([values for _, values in sorted(slow.run(factors)[0].items())])
    assert len(wanted) == local.n_features > 90
    bound = 1e-10 if name in IN_DOUBLES else 2e-6
    for row in torch.linspace(0, len(wanted) - 1, 9).long().tolist():
        gradients = torch.autograd.grad(wanted[row], list(factors.values()), retain_graph=True, allow_unused=True)
        for part, gradient in zip(factors, gradients, strict=True):
            gradient = torch.zeros_like(factors[part]) if gradient is None else gradient
            sinks = gradient[:1] if part.startswith("errors") else gradient[:0]
            assert torch.allclose(found[row, column_of(local, part)], gradient[len(sinks) :], rtol=0, atol=bound), part
            if len(sinks):
                own = local.columns.sinks[int(part[-1])]
                assert torch.allclose(found[row, own], sinks, rtol=0, atol=bound), part


@pytest.mark.parametrize("name", DIFFERENT)
def test_13_doubling_a_part_changes_each_target_by_its_edge(name: str):
    local, slow = local_of(name), reference(name)
    found, values = all_rows(local)
    with torch.no_grad():
        before = slow.run(slow.ones())
        plain = torch.cat([one for _, one in sorted(before[0].items())])
        bound = 1e-10 if name in IN_DOUBLES else 2e-6
        assert torch.allclose(plain, values, rtol=0, atol=bound)
        for part, place in (("features.0", 3), ("features.1", 20), ("errors.0", 4), ("errors.2", 2), ("tokens", 1)):
            factors = slow.ones()
            factors[part][place] = 2
            after = slow.run(factors)
            changed = torch.cat([one for _, one in sorted(after[0].items())]) - plain
            column = column_of(local, part).start + place - part.startswith("errors")
            assert changed.abs().max() > 1e-3
            assert torch.allclose(changed, found[:, column], rtol=0, atol=bound), part


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "granite_multipliers", "opt", "cohere_logit_scale"])
def test_13_doubling_a_part_changes_logits_by_its_edges(name: str):
    model, slow = doubles(name), reference(name)
    graph = attribution_graph(model, IDS, transcoders(model), targets=[7, 40])
    edges = graph.adjacency()
    with torch.no_grad():
        plain = slow.run(slow.ones())[1]
        for part, place, node in (
            ("features.3", 31, sum(one.kind == "feature" and one.layer < 3 for one in graph.nodes) + 31),
            ("tokens", 6, [one.kind for one in graph.nodes].index("token") + 6),
        ):
            factors = slow.ones()
            factors[part][place] = 2
            changed = (slow.run(factors)[1] - plain)[[7, 40]]
            assert torch.allclose(changed, edges[-2:, node], rtol=0, atol=1e-10 if name in IN_DOUBLES else 2e-6), part


def test_edges_do_not_depend_on_the_batch_or_its_order():
    local = local_of("llama")
    whole, _ = all_rows(local)
    order = torch.randperm(local.n_features, generator=torch.Generator().manual_seed(0))
    for batch in order.split(7):
        assert torch.allclose(sweep(local, Targets.features(local, batch)), whole[batch], rtol=0, atol=1e-12)


def test_nothing_comes_from_later_parts():
    local = local_of("gpt2")
    found, _ = all_rows(local)
    times, targets = local.columns.times(), Targets.features(local, torch.arange(local.n_features))
    later = times[None] > targets.times[:, None]
    assert later.any() and not found[later].any()
    positions = torch.cat([mlp.positions for mlp in local.mlps])
    assert not found[:, : len(positions)][positions[None] > positions[:, None]].any()


# 14: rows add up


def test_14_rows_add_up_to_what_the_model_computed(family: TinyFamily):
    model = doubles(family.name)
    if family.name == "opt_post_norm":
        with pytest.raises(SiteError, match="each sum is normed after it is made"):
            attribution_graph(model, IDS, transcoders(model))
        return
    coders = transcoders(model)
    graph = attribution_graph(model, IDS, coders)
    rows = ~graph.values.isnan()
    assert torch.allclose(graph.sums()[rows], graph.values[rows], rtol=0, atol=1e-8)
    read = capture(model, IDS, [coder.site for coder in coders])
    logits = run(model, IDS).logits[0][-1]
    architecture = model.architecture
    if architecture.logit_softcap is not None:
        logits = torch.atanh(logits / architecture.logit_softcap) * architecture.logit_softcap
    for node, value in zip(graph.nodes, graph.values.tolist(), strict=True):
        if node.kind == "feature":
            coder = next(one for one in coders if one.target == Site("mlp_out", node.layer))
            pre = coder.pre_activations(read[coder.site][0][node.position][None])[0, node.index]
            assert value == pytest.approx(float(pre), abs=1e-8) == pytest.approx(node.value, abs=1e-8)
        elif node.kind == "logit":
            assert value == pytest.approx(float(logits[node.index] - logits.mean()), abs=1e-6)
        else:
            assert value != value


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-4)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt", "gpt_neox", "falcon"])
def test_14_in_coarser_dtypes(name: str, dtype: torch.dtype, bound: float):
    model = wrap(ALL[name].build("eager", dtype), tiny_tokenizer(), name=name)
    graph = attribution_graph(model, IDS, transcoders(model))
    rows = ~graph.values.isnan()
    assert torch.allclose(graph.sums()[rows], graph.values[rows], rtol=0, atol=bound)
    fine = attribution_graph(doubles(name), IDS, transcoders(doubles(name)))
    assert graph.scores.replacement == pytest.approx(fine.scores.replacement, abs=0.01)


def test_few_entries_are_most_of_a_row_and_the_rest_is_one_sum():
    model, local = doubles("gpt2"), local_of("gpt2")
    dense, values = all_rows(local)
    graph = attribution_graph(model, IDS, transcoders(model))
    n, counted = local.n_features, local.columns.n_counted
    kept = graph.adjacency()[:n, : len(local.columns)]
    there = kept != 0
    assert torch.equal(kept[there], dense[there])
    assert torch.allclose(graph.remainder[:n], (dense - kept).sum(1))
    mass, left = dense[:, :counted].abs().sum(1), (dense - kept)[:, :counted].abs().sum(1)
    assert torch.allclose(graph.mass[:n], mass) and bool((left <= 1e-4 * mass).all()) and bool(left.any())
    rows = Rows(counted, tail=0.2)
    rows.add(torch.arange(n), dense, values)
    assert len(rows.entries()[0]) < int(there.sum()) / 2


def test_a_layer_without_transcoder_is_a_constant():
    model = doubles("gpt2")
    added = capture(model, IDS, ["mlp_out.2"])["mlp_out.2"][0]
    local = local_of("gpt2")
    assert torch.equal(local.mlps[2].error[1:], added[1:]) and not local.mlps[2].error[0].any()
    assert torch.equal(local.mlps[2].sink[0], added[0]) and not len(local.mlps[2].latents)
    graph = attribution_graph(model, IDS, transcoders(model))
    assert {node.layer for node in graph.nodes if node.kind == "error"} == set(range(N_LAYERS))
    assert {node.layer for node in graph.nodes if node.kind == "feature"} == {0, 1, 3}


@pytest.mark.parametrize("sinks", [0, 2, 7, 50])
def test_sinks_have_no_features(sinks: int):
    model = doubles("gpt2")
    graph = attribution_graph(model, IDS, transcoders(model), sinks=sinks)
    assert {node.position for node in graph.nodes if node.kind == "feature"} == set(range(sinks, len(IDS)))
    assert sum(node.kind == "sink" for node in graph.nodes) == N_LAYERS * min(sinks, len(IDS))
    rows = ~graph.values.isnan()
    assert torch.allclose(graph.sums()[rows], graph.values[rows], rtol=0, atol=1e-8)


def test_a_prompt_of_one_token():
    model = doubles("llama")
    graph = attribution_graph(model, [5], transcoders(model), sinks=0)
    rows = ~graph.values.isnan()
    assert len(graph.tokens) == 1 and torch.allclose(graph.sums()[rows], graph.values[rows], rtol=0, atol=1e-8)


def test_learned_positions_are_nodes():
    kinds = {
        name: {one.kind for one in attribution_graph(doubles(name), IDS, transcoders(doubles(name))).nodes}
        for name in ("gpt2", "llama")
    }
    assert "position" in kinds["gpt2"] and "position" not in kinds["llama"]


# Attention under other implementations


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral_sliding", "gpt_neox", "falcon", "opt", "phi3"])
def test_patterns_are_those_that_eager_attention_makes(name: str):
    ids = [3 + 5 * one for one in range(40)]  # more keys than a head is wide
    eager, other = tiny_model(name), tiny_model(name, "sdpa")
    sites = [Site(part, layer) for layer in range(N_LAYERS) for part in ("v", "attn_out")]
    wanted, found = (
        attention_patterns(model, model.tokenize(ids), capture(model, ids, sites)) for model in (eager, other)
    )
    for one, two in zip(wanted, found, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    first, second = (attribution_graph(model, IDS, transcoders(model)) for model in (eager, other))
    assert [node.name for node in first.nodes] == [node.name for node in second.nodes]
    assert torch.allclose(
        first.adjacency(), second.adjacency(), atol=2e-3
    )  # an edge may fall on either side of the tail
    assert first.scores.replacement == pytest.approx(second.scores.replacement, abs=1e-4)


# Targets


def test_the_likeliest_logits():
    model = doubles("llama")
    logits = run(model, IDS).logits[0][-1].double().softmax(-1).sort(descending=True)
    graph = attribution_graph(model, IDS, transcoders(model), targets=Likeliest(0.3, 100))
    found = [node for node in graph.nodes if node.kind == "logit"]
    count = int((logits.values.cumsum(0) < 0.3).sum()) + 1
    assert [node.index for node in found] == logits.indices[:count].tolist()
    assert [node.value for node in found] == pytest.approx(logits.values[:count].tolist())
    most = attribution_graph(model, IDS, transcoders(model), targets=Likeliest(1.0, 2))
    assert sum(node.kind == "logit" for node in most.nodes) == 2


def test_a_difference_is_the_difference_of_two_rows():
    model = doubles("gpt_neox")
    both = attribution_graph(model, IDS, transcoders(model), targets=[7, 40])
    between = attribution_graph(model, IDS, transcoders(model), targets=LogitDiff(7, 40))
    n = len(between.nodes) - 1
    wanted = (both.adjacency()[-2] - both.adjacency()[-1])[:n]
    assert torch.allclose(between.adjacency()[-1, :n], wanted, atol=5e-3 * float(wanted.abs().max()))
    assert float(between.values[-1]) == pytest.approx(float(both.values[-2] - both.values[-1]))
    assert between.logit_weights.sum() == 1 and between.nodes[-1].value is None
    assert " - " in between.nodes[-1].label


def test_a_token_by_its_text():
    model = doubles("llama")
    text = model.token_texts([40])[0]
    first, second = (attribution_graph(model, IDS, transcoders(model), targets=one) for one in (text, 40))
    assert first.nodes[-1] == second.nodes[-1] and torch.equal(first.weights, second.weights)


# Few features


def test_the_most_influential_features_are_followed():
    model = doubles("llama")
    whole = attribution_graph(model, IDS, transcoders(model))
    seen: list[tuple[int, int]] = []
    part = attribution_graph(
        model, IDS, transcoders(model), max_features=30, batch_size=1, progress=lambda *done: seen.append(done)
    )
    assert seen == [(one, 30) for one in range(1, 31)]
    features = [node for node in part.nodes if node.kind == "feature"]
    assert len(features) == 30
    rows = ~part.values.isnan()
    assert torch.allclose(part.sums()[rows], part.values[rows], rtol=0, atol=1e-8)
    by_node = dict(zip(whole.nodes, whole.influence.tolist(), strict=True))
    n = whole.are("feature").sum()
    best = sum(sorted(whole.influence[:n].tolist())[-30:])
    assert sum(by_node[node] for node in features) > 0.9 * best
    assert part.scores.replacement < whole.scores.replacement
    assert part.scores.completeness < whole.scores.completeness
    number = {node: index for index, node in enumerate(whole.nodes)}
    at = torch.tensor([number[node] for node in part.nodes])
    assert torch.allclose(part.adjacency(), whole.adjacency()[at][:, at], rtol=0, atol=1e-12)


def test_more_features_than_are_active_are_all():
    model = doubles("llama")
    some, whole = (attribution_graph(model, IDS, transcoders(model), max_features=one) for one in (9999, None))
    assert some.nodes == whole.nodes and torch.equal(some.weights, whole.weights)


# 15 and 16: scores


def golden() -> tuple[Tensor, Tensor, Tensor]:
    """The 12 nodes of circuit-tracer's test: targets and sources of its edges, and each node's rank."""
    edges = {11: (1, 3, 6, 8), 3: (0, 1, 6), 1: (9, 10), 0: (9,)}
    pairs = [(target, source) for target, sources in edges.items() for source in sources]
    ranks = torch.zeros(12, dtype=torch.long)
    ranks[[0, 1]], ranks[3], ranks[11] = 1, 2, 3
    targets, sources = torch.tensor(pairs).T
    return targets, sources, ranks


def test_15_the_golden_graph():
    targets, sources, ranks = golden()
    logits = torch.zeros(12)
    logits[11] = 1
    found = Shares.of(targets, sources, torch.full((10,), 10.0), ranks).influence(logits)
    wanted = [1 / 12, 1 / 3, 0, 1 / 4, 0, 0, 1 / 3, 0, 1 / 4, 1 / 4, 1 / 6, 0]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)
    # Without the two weakest edges, which pruning nodes takes away.
    kept = (targets != 0) & ~((targets == 3) & (sources == 0))
    scores = Shares.of(targets[kept], sources[kept], torch.full((8,), 10.0), ranks).edge_scores(logits)
    by_target = {11: 1 / 4, 3: 1 / 8, 1: 3 / 16}
    assert scores.tolist() == pytest.approx([by_target[one] for one in targets[kept].tolist()], abs=1e-12)


def series(graph: AttributionGraph) -> Tensor:
    """Influence as it is defined: a power series of the normed matrix."""
    matrix = graph.adjacency().double().abs()
    matrix[:, graph.are("sink", "attention bias", "decoder bias", "own bias")] = 0
    matrix = matrix / graph.mass.clamp_min(1e-300)[:, None]
    total, term = torch.zeros(len(matrix), dtype=torch.float64), graph.logit_weights
    while bool((term := term @ matrix).any()):
        total = total + term
    return total


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon_40b"])
def test_15_one_pass_is_the_power_series(name: str):
    graph = attribution_graph(doubles(name), IDS, transcoders(doubles(name)))
    for one in (graph, graph.prune()):
        assert torch.allclose(one.influence, series(one), rtol=0, atol=1e-12)
    assert not graph.influence[graph.are("attention bias", "sink", "own bias")].any()


def test_an_edge_against_the_order_is_refused():
    with pytest.raises(UsageError, match="from node 1 to node 0"):
        Shares.of(torch.tensor([0]), torch.tensor([1]), torch.ones(1), torch.tensor([0, 1]))


def perfect(model: Model, ids: list[int]) -> list[SparseCoder]:
    """Transcoders that miss nothing of one prompt: each position has a latent that it alone turns on."""
    coders = []
    for layer in range(model.n_layers):
        site, target = Site(f"resid_{'pre' if is_parallel(model) else 'mid'}", layer), Site("mlp_out", layer)
        read = capture(model, ids, [site, target])
        reads = torch.linalg.pinv(read[site][0]).T  # its products with the stream are 1 at its own position, else 0
        nothing = torch.zeros(len(ids), dtype=torch.float64), torch.zeros(D_MODEL, dtype=torch.float64)
        about = {"site": site, "target": target}
        half = KeepAbove(torch.tensor(0.5, dtype=torch.float64))
        coders.append(SparseCoder(reads, nothing[0], read[target][0], nothing[1], half, **about))
    return coders


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_16_without_errors_everything_is_explained(name: str):
    model = doubles(name)
    graph = attribution_graph(model, IDS, perfect(model, IDS), sinks=0)
    assert sum(node.kind == "feature" for node in graph.nodes) == N_LAYERS * len(IDS)
    scores = graph.scores
    assert 1 - 1e-3 < scores.replacement <= scores.completeness <= 1  # but for the tails of rows
    assert float(graph.influence[graph.are("error")].sum()) < 1e-8


def test_16_without_features_only_direct_ways_are_explained():
    model = doubles("llama")
    coders = [
        blind_coder(D_MODEL, site=Site("resid_mid", layer), target=Site("mlp_out", layer)) for layer in range(N_LAYERS)
    ]
    graph = attribution_graph(model, IDS, coders, targets=[7])
    row = graph.adjacency()[-1].abs()
    inputs, errors = float(row[graph.are("token")].sum()), float(row[graph.are("error")].sum())
    assert not graph.are("feature").any()
    assert graph.scores.replacement == pytest.approx(inputs / (inputs + errors), abs=2e-4)


def test_16_all_influence_that_ends_in_errors_is_none_explained():
    nodes = (
        Node("error", 0, 0),
        Node("token", None, 0, 3),
        Node("feature", 1, 0, 5, 1.0),
        Node("logit", None, 0, 4, 0.5),
    )
    starts, sources = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 2])
    sums = torch.tensor([0.0, 0.0, 2.0, 3.0])
    graph = AttributionGraph(
        "a", ("a",), nodes, starts, sources, torch.tensor([2.0, 3.0]), 0 * sums, sums, sums, {"models": []}, {}
    )
    assert graph.scores.replacement == 0
    assert graph.scores.completeness == pytest.approx(2 / 3)  # the feature's row is all error, of weight .5 in 1.5


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "bloom"])
def test_16_influence_is_kept_and_scores_are_in_order(name: str):
    graph = attribution_graph(doubles(name), IDS, transcoders(doubles(name)))
    ends = float(graph.influence[graph.are("token", "position", "error")].sum())
    assert ends == pytest.approx(float(graph.logit_weights.sum()), rel=1e-3)
    assert 0 < graph.scores.replacement < graph.scores.completeness < 1


@pytest.mark.parametrize("max_features", [None, 25])
def test_16_scores_are_circuit_tracers_with_what_is_not_there_as_one_error_more(max_features: int | None):
    model = doubles("llama")
    graph = attribution_graph(model, IDS, transcoders(model), max_features=max_features)
    n = len(graph.nodes)
    matrix = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    matrix[:n, :n] = graph.adjacency().abs() / graph.mass.clamp_min(1e-300)[:, None]
    matrix[:, :n][:, graph.are("sink", "attention bias", "decoder bias", "own bias")] = 0
    matrix[:n, n] = torch.where(graph.mass > 0, 1 - matrix[:n].sum(1), 0)
    weights, errors = (
        torch.cat([graph.logit_weights, torch.zeros(1)]),
        torch.cat([graph.are("error"), torch.ones(1) > 0]),
    )
    influence = torch.linalg.solve(torch.eye(n + 1, dtype=torch.float64) - matrix.T, weights) - weights
    inside, outside = float(influence[:n][graph.are("token")].sum()), float(influence[errors].sum())
    total = influence + weights
    completeness = float(((1 - matrix[:, errors].sum(1)) * total).sum() / total.sum())
    assert graph.scores.replacement == pytest.approx(inside / (inside + outside), abs=1e-12)
    assert graph.scores.completeness == pytest.approx(completeness, abs=1e-12)


# Pruning


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_a_pruned_graph_is_small_adds_up_and_has_no_dead_ends(name: str):
    graph = attribution_graph(doubles(name), IDS, transcoders(doubles(name)))
    pruned = graph.prune(0.7, 0.9)
    assert len(pruned.nodes) < len(graph.nodes) and len(pruned.weights) < len(graph.weights) / 3
    rows = ~pruned.values.isnan()
    assert torch.allclose(pruned.sums()[rows], pruned.values[rows], rtol=0, atol=1e-8)
    edges = pruned.adjacency() != 0
    edges[:, pruned.are("sink", "attention bias", "decoder bias", "own bias")] = False
    assert edges.any(0)[pruned.are("feature", "error")].all() and edges.any(1)[pruned.are("feature")].all()
    for kind in ("token", "logit", "position"):
        assert pruned.are(kind).sum() == graph.are(kind).sum()
    kept = set(pruned.nodes)
    lost = [one for node, one in zip(graph.nodes, graph.influence.tolist(), strict=True) if node not in kept]
    assert sum(lost) < 0.5 * float(graph.influence.sum())
    assert pruned.scores.replacement < graph.scores.replacement
    assert graph.prune(1.0, 1.0).scores.replacement == pytest.approx(graph.scores.replacement, abs=1e-9)


def test_the_fewest_that_have_a_share():
    assert most_of(torch.tensor([1.0, 4.0, 3.0, 2.0]), 0.7).tolist() == [False, True, True, False]
    assert most_of(torch.tensor([1.0, 4.0, 3.0, 2.0]), 0.71).tolist() == [False, True, True, True]
    assert most_of(torch.zeros(3), 0.8).tolist() == [False] * 3
    with pytest.raises(UsageError, match="a threshold of 1.2"):
        most_of(torch.ones(2), 1.2)


# 17: JSON


@pytest.fixture
def exported() -> dict:
    model = doubles("gpt2")
    graph = attribution_graph(model, IDS, transcoders(model))
    return json.loads(json.dumps(to_neuronpedia(graph, "a-graph", source_set="a-set"), allow_nan=False))


def test_17_an_exported_graph_is_in_the_schema(exported: dict):
    check_graph_json(exported)
    names = [node["node_id"] for node in exported["nodes"]]
    assert len(set(names)) == len(names) and len(exported["links"]) > 100
    assert {end for link in exported["links"] for end in (link["source"], link["target"])} <= set(names)
    for node in exported["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            layer, latent = cantor_unpair(node["feature"])
            assert node["node_id"] == f"{layer}_{latent}_{node['ctx_idx']}"
    shares = [node["influence"] for node in exported["nodes"] if node["feature_type"] in ("cross layer transcoder",)]
    assert all(0 < one <= 0.8 + 0.1 for one in shares)
    logits = [node for node in exported["nodes"] if node["is_target_logit"]]
    assert logits[0]["node_id"].startswith(f"{N_LAYERS + 1}_") and "(p=" in logits[0]["clerp"]
    assert exported["metadata"]["feature_details"] == {"neuronpedia_source_set": "a-set"}


def test_17_links_are_the_graphs_own_edges(exported: dict):
    model = doubles("gpt2")
    pruned = attribution_graph(model, IDS, transcoders(model)).prune()
    constants = pruned.are("sink", "attention bias", "decoder bias", "own bias")
    assert len(exported["links"]) == int((~constants[pruned.sources]).sum())
    wanted = sorted(pruned.weights[~constants[pruned.sources]].tolist())
    assert sorted(link["weight"] for link in exported["links"]) == wanted


def test_17_pairs_come_back():
    for layer in (0, 1, 23, 61):
        for latent in (0, 1, 5458, 16383, 2**20 - 1, 2**40):
            assert cantor_unpair(cantor_pair(layer, latent)) == (layer, latent)
    assert len({cantor_pair(x, y) for x in range(40) for y in range(40)}) == 1600


def test_reference_bug_an_error_has_no_features_name():
    """circuit-tracer 0.4.1 named the error of layer 5 at position 3 as the feature 5 of layer 0 there."""
    from bathyscope.circuits.attribution_graphs.neuronpedia import _node_id

    error, feature = Node("error", 5, 3), Node("feature", 0, 3, 5, 1.0)
    assert _node_id(error, 26) == "5_-1_3" and _node_id(feature, 26) == "0_5_3"


LIES = {
    "two nodes of one name": (lambda data: data["nodes"].append(data["nodes"][0]), r"nodes\[\d+\]\.node_id is"),
    "a link from nowhere": (lambda data: data["links"][3].update(source="9_9_9"), r"links\[3\]\.source is '9_9_9'"),
    "a link to nowhere": (lambda data: data["links"][3].update(target="9_9_9"), r"links\[3\]\.target is"),
    "a link that is no number": (
        lambda data: data["links"][0].update(weight=float("nan")),
        r"links\[0\]\.weight is nan",
    ),
    "a link twice": (lambda data: data["links"].append(data["links"][2]), "one link between two nodes"),
    "a link backwards": (
        lambda data: data["links"][0].update(source=data["links"][0]["target"], target=data["links"][0]["source"]),
        r"links\[0\] is .*from an earlier layer",
    ),
    "another feature than its name says": (
        lambda data: data["nodes"][0].update(feature=3),
        r"nodes\[0\]\.feature is 3",
    ),
    "another layer than its name says": (lambda data: data["nodes"][0].update(layer="3"), r"nodes\[0\]\.node_id is"),
    "a position that is not there": (lambda data: data["nodes"][0].update(ctx_idx=99), r"nodes\[0\]\.ctx_idx is 99"),
    "a kind that is not there": (
        lambda data: data["nodes"][0].update(feature_type="bias"),
        r"nodes\[0\]\.feature_type",
    ),
    "no name": (lambda data: data["nodes"][1].pop("node_id"), r"nodes\[1\]\.node_id is missing"),
    "no links": (lambda data: data.pop("links"), "links is missing"),
    "text for a position": (lambda data: data["nodes"][1].update(ctx_idx="1"), r"nodes\[1\]\.ctx_idx is '1'; int"),
    "no slug": (lambda data: data["metadata"].pop("slug"), r"metadata\.slug is missing"),
    "tokens that are numbers": (lambda data: data["metadata"].update(prompt_tokens=[1]), r"prompt_tokens\[0\] is 1"),
    "an influence of 2": (lambda data: data["nodes"][0].update(influence=2), r"nodes\[0\]\.influence is 2"),
    "an endless activation": (lambda data: data["nodes"][0].update(activation=float("inf")), r"\.activation is inf"),
    "a pin on nothing": (lambda data: data["qParams"].update(pinnedIds=["x"]), r"qParams\.pinnedIds\[0\] is 'x'"),
    "a group of nothing": (
        lambda data: data["qParams"].update(supernodes=[["name", "x"]]),
        r"qParams\.supernodes\[0\]\[1\] is 'x'",
    ),
    "links that are no list": (lambda data: data.update(links={}), "links is {}"),
    "a node that is no object": (lambda data: data["nodes"].insert(0, 3), r"nodes\[0\] is 3"),
}


@pytest.mark.parametrize("lie", LIES)
def test_17_a_graph_file_that_lies_is_refused(exported: dict, lie: str):
    change, said = LIES[lie]
    change(exported)
    with pytest.raises(StorageError, match=said):
        check_graph_json(exported)


def test_17_old_names_of_errors_are_refused(exported: dict):
    error = next(
        one for one in exported["nodes"] if one["feature_type"] == "mlp reconstruction error" and one["layer"] != "0"
    )
    error["node_id"] = f"0_{error['layer']}_{error['ctx_idx']}"
    exported["links"] = []
    with pytest.raises(StorageError, match="as its layer and ctx_idx say"):
        check_graph_json(exported)


# The result


def test_a_graph_is_kept_and_shown(tmp_path):
    model = doubles("gpt2")
    graph = attribution_graph(model, IDS, transcoders(model), targets=LogitDiff(7, 40))
    again = Result.load(graph.save(tmp_path / "graph.json"))
    assert isinstance(again, AttributionGraph) and again.nodes == graph.nodes
    assert torch.equal(again.adjacency(), graph.adjacency()) and again.scores == graph.scores
    rows = graph.rows()
    assert len(rows) == len(graph.nodes) and rows[0]["name"].startswith("feature 0.")
    page = graph.to_html()
    best = graph.nodes[int(graph.influence[: graph.are("feature").sum()].argmax())]
    assert f"feature {best.layer}.{best.index} at {best.position}" in page
    check_graph_json(to_neuronpedia(graph, "difference"))


def test_it_says_what_it_was_made_of():
    model = doubles("gpt2")
    coders = transcoders(model)
    spec = attribution_graph(model, IDS, coders, max_features=5).provenance["spec"]
    assert spec["ids"] == IDS and spec["max_features"] == 5 and spec["targets"] == {"likeliest": 0.95, "most": 10}
    assert [one["fingerprint"] for one in spec["coders"]] == [coder.fingerprint for coder in coders]


# Refusals


def autoencoder(model: Model) -> SparseCoder:
    return random_coder(D_MODEL, site=Site("mlp_out", 1), target=Site("mlp_out", 1))


REFUSED = {
    "none": (lambda model: [], "no transcoder was given"),
    "an autoencoder": (lambda model: [autoencoder(model)], "an autoencoder at mlp_out.1"),
    "of attention": (
        lambda model: [random_coder(D_MODEL, site=Site("resid_pre", 1), target=Site("attn_out", 1))],
        "reconstructs attn_out.1",
    ),
    "that reads too late": (
        lambda model: [transcoder(model, 1, "resid_post.1")],
        "reads resid_post.1 to make mlp_out.1",
    ),
    "that reads no stream": (lambda model: [transcoder(model, 1, "attn_out.1")], "reads attn_out.1"),
    "two of one": (lambda model: [transcoder(model, 1), transcoder(model, 1)], "two transcoders of mlp_out.1"),
    "with normed inputs": (lambda model: [replace(transcoder(model, 1), normed=True)], "norms its inputs"),
    "of no place": (lambda model: [random_coder(D_MODEL)], "does not say where it belongs"),
    "of another model": (
        lambda model: [replace(transcoder(model, 1), model={"fingerprint": "x", "model": "other"})],
        "trained on 'other'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_coders_that_do_not_fit_are_refused(case: str):
    model = doubles("gpt2")
    make, said = REFUSED[case]
    with pytest.raises(UsageError, match=said):
        attribution_graph(model, IDS, make(model))


def test_a_parallel_block_has_no_middle():
    model = doubles("gpt_neox")
    with pytest.raises(SiteError, match="nothing lies between them"):
        attribution_graph(model, IDS, [transcoder(model, 1, "resid_mid.1")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_features": 0}, "max_features=0"),
        ({"sinks": -1}, "sinks=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"targets": []}, r"targets=\[\]"),
        ({"targets": [7, 7]}, "tokens that differ"),
        ({"targets": [99999]}, "token id 99999"),
        ({"targets": LogitDiff(7, 7)}, "two tokens differ"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, said: str):
    model = doubles("gpt2")
    with pytest.raises(UsageError, match=said):
        attribution_graph(model, IDS, transcoders(model), **options)


def test_an_empty_prompt_is_refused():
    model = doubles("gpt2")
    with pytest.raises(UsageError, match="an empty prompt"):
        attribution_graph(model, "", transcoders(model))
    with pytest.raises(UsageError, match="Likeliest"):
        Likeliest(share=0)


def test_what_is_not_linear_is_refused():
    model = doubles("gpt2")
    tokens = model.tokenize(IDS)
    sites = [Site(name, 1) for name in ("resid_pre", "v", "z", "attn_out")]
    read = capture(model, tokens, [*sites, Site("pattern", 1)])
    pattern = read[Site("pattern", 1)][0].transpose(0, 1)
    FrozenAttention.of(model, 1, read, pattern, torch.float64)
    with pytest.raises(UsageError, match="attention of block 1 in gpt2 is not linear"):
        FrozenAttention.of(model, 1, read, pattern.flip(0), torch.float64)
    other = capture(model, [9, *IDS[1:]], [*sites])
    mixed = {site: other[site] if site.component == "resid_pre" else read[site] for site in read}
    with pytest.raises(UsageError, match="not a projection of a normed stream"):
        FrozenAttention.of(model, 1, mixed, pattern, torch.float64)

    class Adapted(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 0.01 * input.sum()

    with pytest.raises(UsageError, match="neither quantised nor adapted"):
        linear_map(Adapted(8, 4), "it", 8, torch.float32)
    with pytest.raises(UsageError, match="not linear when its scale is held"):
        FrozenNorms.of(torch.nn.GELU(), torch.randn(3, 8), torch.float32)


def test_every_refusal_says_what_to_do():
    with pytest.raises(BathyscopeError, match="Try: max_features=1000"):
        attribution_graph(doubles("gpt2"), IDS, transcoders(doubles("gpt2")), max_features=-3)
