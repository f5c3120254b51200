"""Causal methods: the identities that theory predicts, over every family, and plain runs as a reference."""

from dataclasses import replace

import pytest
import torch

from bathyscope import capture, run
from bathyscope.attribution import linearised_path_patching
from bathyscope.attribution.direct import Tail
from bathyscope.causal import (
    NoiseRule,
    activation_patching,
    attention_knockout,
    causal_tracing,
    path_patching,
)
from bathyscope.causal.measuring import patched
from bathyscope.engine import Cell, Patch, Read, collect, plan
from bathyscope.errors import InterventionError, PositionError, SiteError, UsageError
from bathyscope.interventions import CutEdges, Noise, Replace, Write
from bathyscope.model import Model
from bathyscope.readouts import LogitDiff, LogProbability, Probability
from bathyscope.results import Result
from bathyscope.sites import Site, residual_site
from bathyscope.store import Store
from conftest import tiny_model
from families import TinyFamily
from tokenizers_for_tests import tiny_tokenizer

CLEAN = "The cat of the keeper lives in"
CORRUPTED = "The cat in the keeper lives in"
ANSWER, WRONG = 7, 11
DIFF, P = LogitDiff(ANSWER, WRONG), LogProbability(ANSWER)


def ids_of(model: Model, text: str = CLEAN) -> tuple[int, ...]:
    return model.tokenize(text).ids


def first_difference(model: Model) -> int:
    both = zip(ids_of(model), ids_of(model, CORRUPTED), strict=True)
    return next(index for index, (one, other) in enumerate(both) if one != other)


def metric_of(model: Model, text, metric=DIFF, **asked) -> float:
    return float(metric.measure(model, run(model, text, **asked).logits[0][-1:])[0])


def needs(model: Model, *components: str) -> None:
    for name in components:
        if isinstance(reason := model.architecture.taps[name], str):
            pytest.skip(reason)


def near(value: float, wanted: float, tolerance: float = 1e-4) -> bool:
    return abs(value - wanted) <= tolerance * max(1.0, abs(wanted))


# Activation patching


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_patching_all_positions_of_a_layer_is_the_other_run(model: Model, direction: str):
    found = activation_patching(model, CLEAN, CORRUPTED, DIFF, together=True, direction=direction)
    assert len(found.cells) == model.n_layers + 1
    assert all(near(cell.effect, 1.0, 2e-4) for cell in found.cells), found.rows()
    ends = [metric_of(model, text) for text in (CORRUPTED, CLEAN)]
    assert near(found.values["corrupted"], ends[0]) and near(found.values["clean"], ends[1])


def test_patching_is_each_plain_run(model: Model):
    needs(model, "z", "mlp_out")
    found = [
        *activation_patching(model, CLEAN, CORRUPTED, DIFF, component=["resid_post", "mlp_out"], layers="0,2").cells,
        *activation_patching(
            model, CLEAN, CORRUPTED, DIFF, component="z", layers=1, heads=True, position=[2, -1]
        ).cells,
    ]
    sites = dict.fromkeys(Site.parse(cell.site) for cell in found)
    clean = capture(model, CLEAN, list(sites))
    values = set()
    for cell in found:
        value = clean[cell.site][0][cell.position]
        wanted = metric_of(model, CORRUPTED, writes=[Write(cell.site, Replace(value), cell.position)])
        assert near(cell.value, wanted, 1e-4), cell
        values.add(round(wanted, 3))
    assert len(values) > len(found) / 4, "cells that all say the same prove nothing"


def test_what_stands_before_the_difference_has_no_effect(model: Model):
    first = first_difference(model)
    found = activation_patching(model, CLEAN, CORRUPTED, DIFF, position=list(range(first)), layers="0-2")
    assert all(abs(cell.effect) < 1e-4 for cell in found.cells)
    last = activation_patching(model, CLEAN, CORRUPTED, DIFF, position="last", layers=model.n_layers - 1)
    assert near(last.cells[0].effect, 1.0)


def test_a_window_is_its_layers_written_together(llama: Model):
    found = activation_patching(llama, CLEAN, CORRUPTED, DIFF, component="mlp_out", position="last", window=3)
    values = capture(llama, CLEAN, [f"mlp_out.{layer}" for layer in range(4)])
    for cell in found.cells:
        layers = range(max(0, cell.layer - 1), min(4, cell.layer + 2))
        writes = [Write(f"mlp_out.{one}", Replace(values[f"mlp_out.{one}"][0][-1]), -1) for one in layers]
        assert near(cell.value, metric_of(llama, CORRUPTED, writes=writes))


def test_prompts_of_different_lengths_are_refused_with_their_tokens(llama: Model):
    with pytest.raises(UsageError, match=r"0 'The'.*0 'The'"):
        activation_patching(llama, CLEAN, "The dog of the keeper", DIFF)
    with pytest.raises(UsageError, match="same tokens"):
        activation_patching(llama, CLEAN, CLEAN, DIFF)


def test_impossible_patches_are_refused(llama: Model):
    for asked, error in (
        ({"direction": "both"}, UsageError),
        ({"component": "logits"}, UsageError),
        ({"component": "mlp_out", "heads": True}, UsageError),
        ({"layers": 99}, SiteError),
        ({"position": 99}, PositionError),
        ({"window": 0}, UsageError),
        ({"stor": None}, UsageError),
    ):
        with pytest.raises(error):
            activation_patching(llama, CLEAN, CORRUPTED, DIFF, **asked)


def test_a_metric_that_both_runs_share_has_no_shares(llama: Model):
    told = []
    with pytest.raises(UsageError, match="share of their difference"):
        activation_patching(llama, CLEAN, CORRUPTED, _Constant(ANSWER), planned=told.append)
    assert not told, "it is refused before a grid is planned"
    small = activation_patching(llama, CLEAN, CORRUPTED, Probability(ANSWER), layers=1, together=True)
    assert near(small.cells[0].effect, 1.0, 1e-3), "a small probability is no reason to refuse"


def test_a_place_that_is_named_twice_is_one(llama: Model):
    last = len(ids_of(llama)) - 1
    assert len(activation_patching(llama, CLEAN, CORRUPTED, DIFF, layers=1, position=[last, -1]).cells) == 1
    read = Read(llama.tokenize(CLEAN), Site("resid_post", 1), 2)
    with pytest.raises(UsageError, match="written twice"):
        Cell(llama.tokenize(CORRUPTED), DIFF, read, read.site, (3,), more=(Patch(read, read.site, (3,)),))
    heads = (Patch(read, Site("z", 1), (3,)), Patch(read, Site("z", 1, 2), (3,)))
    with pytest.raises(UsageError, match="written twice"):
        Cell(llama.tokenize(CORRUPTED), DIFF, more=heads)


class _Constant(Probability):
    """A metric that is the same in every run."""

    def measure(self, model, logits):
        return super().measure(model, logits) * 0 + 0.5


# Causal tracing


def tracing(model: Model, **asked):
    return causal_tracing(model, CLEAN, "keeper", P, samples=2, **{"noise": "0.7", "component": "resid_post", **asked})


def test_no_noise_has_no_effects(model: Model):
    found = tracing(model, noise="0")
    assert abs(found.values["total_effect"]) < 1e-4
    assert all(abs(cell.effect) < 1e-4 for cell in found.cells)


def test_the_last_place_restores_all_and_what_stands_before_the_subject_nothing(model: Model):
    found = tracing(model)
    total, last = found.values["total_effect"], len(ids_of(model)) - 1
    assert abs(total) > 1e-3
    assert near(found.at(f"resid_post.{model.n_layers - 1}", last).effect, total)
    subject = first_token_of_subject(model)
    before = [cell for cell in found.cells if cell.position < subject]
    assert before and all(abs(cell.effect) < 1e-4 for cell in before)
    assert any(abs(cell.effect) > 1e-3 for cell in found.cells if cell.position == subject)


def first_token_of_subject(model: Model) -> int:
    tokens = model.tokenize(CLEAN)
    start = tokens.text.index("keeper")
    return next(index for index, (first, last) in enumerate(tokens.offsets) if first <= start < last)


def test_restoring_every_position_of_a_layer_is_the_clean_run(model: Model):
    tokens = model.tokenize(CLEAN)
    noise = (Write(Site("embed"), Noise(0.7, 3), tuple(range(1, 4))),)
    every = range(len(tokens))
    cells = [
        replace(patched(P, tokens, tokens, [residual_site(layer)], every), common=noise)
        for layer in range(-1, model.n_layers)
    ]
    found = collect(plan([*cells, Cell(tokens, P, common=noise), Cell(tokens, P)], model, model), model, model).readings
    *restored, noised, clean = (reading.values["log_probability"] for reading in found)
    assert all(abs(value - clean) < 1e-4 for value in restored)
    assert abs(noised - clean) > 1e-2


def test_tracing_is_each_plain_run_with_the_same_noise(model: Model):
    needs(model, "mlp_out")
    found = tracing(model, component=["resid_post", "mlp_out"], layers="1,2", window=2, position=[5, -1])
    subject = tuple(int(index) for index in found.provenance["spec"]["subject"])
    clean = capture(model, CLEAN, ["resid_post.1", "resid_post.2", *(f"mlp_out.{layer}" for layer in range(4))])
    changed = False
    for cell in found.cells:
        site = Site.parse(cell.site)
        window = [Site("mlp_out", layer) for layer in (cell.layer - 1, cell.layer)]
        sites = window if site.component == "mlp_out" else [site]
        values = []
        for seed in (1, 2):
            writes = [Write("embed", Noise(0.7, seed), subject)]
            writes += [Write(one, Replace(clean[one][0][cell.position]), cell.position) for one in sites]
            values.append(metric_of(model, CLEAN, P, writes=writes))
        assert near(cell.value, sum(values) / 2)
        changed |= abs(cell.effect) > 1e-3
    assert changed, "cells that change nothing prove nothing"


def test_a_subject_that_is_not_there_is_refused_with_the_tokens(llama: Model):
    with pytest.raises(PositionError, match=r"it is not there; the tokens are 0 'The'"):
        causal_tracing(llama, CLEAN, "Eiffel Tower", P)


def test_noise_rules(llama: Model):
    std = float(torch.cat(capture(llama, ["The cat", "a keeper"], ["embed"])["embed"]).std())
    rule = NoiseRule(3.0, subjects=("The cat", "a keeper"))
    assert near(rule.strength(llama), 3 * std, 1e-6)
    opened = replace(llama, tokenizer=tiny_tokenizer(bos=True), _modules={}, _texts={})
    assert near(rule.strength(opened), 3 * std, 1e-6), "a special token is no part of a subject"
    assert NoiseRule() == NoiseRule(3.0)
    with pytest.raises(UsageError, match="one of the two"):
        NoiseRule(3.0, std=0.1)
    assert NoiseRule.parse("s3").strength(llama) > 0
    assert NoiseRule.parse("u0.5") == NoiseRule(None, 0.5, uniform=True)
    drawn = Noise(0.5, 1, "uniform").apply(torch.zeros(50, 40))
    assert drawn.abs().max() <= 0.5 and drawn.std() < 0.4 < drawn.abs().max()
    for text in ("", "s", "s-1", "x3", "nan", "inf"):
        with pytest.raises(UsageError):
            NoiseRule.parse(text)


# Attention knockout


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_prefix_that_nothing_looks_at_is_not_there(family: TinyFamily, attention: str):
    if attention == "sdpa" and not family.sdpa:
        pytest.skip("transformers has no sdpa for it")
    model = tiny_model(family.name, attention)
    ids = ids_of(model)
    cut = [Write(Site("pattern", layer), CutEdges(range(3)), tuple(range(3, len(ids)))) for layer in range(4)]
    found = run(model, ids, writes=cut)
    if family.positions == "learned":
        assert (found.logits[0][3:] - run(model, ids[3:]).logits[0]).abs().max() > 0.1, "positions are the prompt's own"
    else:
        assert (found.logits[0][3:] - run(model, ids[3:]).logits[0]).abs().max() < 2e-5
    plain = run(model, ids).logits[0]
    assert torch.equal(found.logits[0][:3], plain[:3]) or (found.logits[0][:3] - plain[:3]).abs().max() < 1e-5
    assert (found.logits[0][-1] - plain[-1]).abs().max() > 0.1


def test_knockout_of_all_but_itself_is_the_one_token_prompt(model: Model, family: TinyFamily):
    last = len(ids_of(model)) - 1
    keys = {"all others": list(range(last))}
    found = attention_knockout(model, CLEAN, P, keys=keys, layers=1, window=9)
    alone = metric_of(model, ids_of(model)[-1:], P)
    assert near(found.cells[0].value, alone) == (family.positions != "learned")
    assert found.cells[0].position is None and found.cells[0].token == "all others"


def test_knockout_by_head(model: Model):
    tokens = model.tokenize(CLEAN)
    heads = attention_knockout(model, CLEAN, P, keys={"k": [7, 8]}, layers=2, heads=True, window=1)
    assert [cell.head for cell in heads.cells] == list(range(model.architecture.n_heads))
    together = [Write(Site("pattern", 2, head), CutEdges((7, 8)), -1) for head in range(model.architecture.n_heads)]
    whole = attention_knockout(model, CLEAN, P, keys={"k": [7, 8]}, layers=2, window=1)
    assert near(metric_of(model, tokens, P, writes=together), whole.cells[0].value)
    assert len({round(cell.value, 4) for cell in heads.cells}) > 1
    assert abs(whole.cells[0].effect) > 1e-3


def test_each_token_is_cut_by_itself_and_never_its_own(model: Model):
    found = attention_knockout(model, CLEAN, P, queries=[4, -1], layers=1, window=2)
    last = len(ids_of(model)) - 1
    assert [cell.position for cell in found.cells] == list(range(last))
    for cell in found.cells[3:6]:
        layers = [Site("pattern", layer) for layer in (0, 1)]
        cut = [
            Write(site, CutEdges((cell.position,), missing_ok=True), query)
            for site in layers
            for query in (4, last)
            if query > cell.position
        ]
        assert near(cell.value, metric_of(model, CLEAN, P, writes=cut)), cell
    assert max(abs(cell.effect) for cell in found.cells) > 1e-3


def test_a_share_is_told_of_probabilities_only(llama: Model):
    shares = attention_knockout(llama, CLEAN, Probability(ANSWER), layers=1)
    plain = shares.values["uncut"]
    assert all(near(cell.effect, cell.value / plain - 1, 1e-5) for cell in shares.cells) and "share" in shares.effect
    others = attention_knockout(llama, CLEAN, DIFF, layers=1)
    assert all(near(cell.effect, cell.value - others.values["uncut"]) for cell in others.cells)
    assert "share" not in others.effect


def test_a_local_layer_keeps_what_is_beyond_its_window_closed():
    model = tiny_model("gpt_neo_local")
    last = len(ids_of(model)) - 1
    with pytest.raises(InterventionError, match="no key to attend to"):
        run(model, CLEAN, writes=[Write("pattern.1", CutEdges(range(last - 6, last + 1)), last)])
    with pytest.raises(InterventionError, match="no such edge was open"):
        run(model, CLEAN, writes=[Write("pattern.1", CutEdges((0,)), last)])


def test_a_pattern_that_was_cut_sums_to_one_without_the_cut(llama: Model):
    cut = Write(Site("pattern", 1, 2), CutEdges((0, 3)), (4, 6))
    pattern = run(llama, CLEAN, reads=["pattern.1"], writes=[cut]).activations["pattern.1"][0]
    assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:-1]), atol=1e-6)
    assert pattern[4, 2, [0, 3]].abs().max() == 0 and pattern[6, 2, [0, 3]].abs().max() == 0
    assert pattern[5, 2, 0] > 0 and pattern[4, 1, 0] > 0


def test_a_query_without_keys_raises(model: Model):
    with pytest.raises(InterventionError, match="query at position 0 no key to attend to"):
        run(model, CLEAN, writes=[Write("pattern.1", CutEdges((0,)), (0, 2))])


def test_impossible_cuts_are_refused(llama: Model):
    with pytest.raises(UsageError, match="looks back only"):
        attention_knockout(llama, CLEAN, P, queries=2, keys={"later": [4]})
    with pytest.raises(UsageError, match="CutEdges"):
        Write("pattern.1", Replace(torch.zeros(3)))
    with pytest.raises(UsageError, match="at pattern"):
        Write("z.1", CutEdges((1,)))
    with pytest.raises(UsageError):
        CutEdges(())
    with pytest.raises(PositionError):
        run(llama, CLEAN, writes=[Write("pattern.1", CutEdges((99,)), -1)])
    with pytest.raises(InterventionError, match="no such edge was open"):
        run(llama, CLEAN, writes=[Write("pattern.1", CutEdges((5,)), 2)])


# Path patching


def test_with_every_receiver_it_is_activation_patching(model: Model):
    needs(model, "attn_out", "mlp_out", "z")
    senders = ("z", "mlp_out", "attn_out")
    found = path_patching(model, CLEAN, CORRUPTED, DIFF, senders=senders, receivers="all")
    for name in senders:
        wanted = activation_patching(model, CLEAN, CORRUPTED, DIFF, component=name, together=True, heads=name == "z")
        for cell in wanted.cells:
            assert near(found.at(cell.site).value, cell.value), cell.site


def test_to_the_logits_alone_it_is_the_residual_streams_difference(model: Model):
    needs(model, "attn_out", "mlp_out")
    found = path_patching(model, CLEAN, CORRUPTED, DIFF, senders=("attn_out", "mlp_out"))
    last = Site("resid_post", model.n_layers - 1)
    sites = [Site.parse(cell.site) for cell in found.cells]
    clean, corrupted = (capture(model, text, [*sites, last]) for text in (CLEAN, CORRUPTED))
    for cell, site in zip(found.cells, sites, strict=True):
        residual = corrupted[last][0][-1] + clean[site][0][-1] - corrupted[site][0][-1]
        assert near(cell.value, float(DIFF.measure(model, model.unembed(residual[None]))[0])), site


def test_all_senders_direct_make_the_clean_logits(model: Model):
    """What every sender alone moves the last residual stream by adds up, and the model's tail says the clean logits."""
    needs(model, "attn_out", "mlp_out")
    sites = [Site(name, layer) for name in ("attn_out", "mlp_out") for layer in range(model.n_layers)]
    ends = [Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)]
    clean, corrupted = (capture(model, text, [*sites, *ends]) for text in (CLEAN, CORRUPTED))
    total = sum(clean[site][0] - corrupted[site][0] for site in [*sites, ends[0]])
    logits = model.unembed(corrupted[ends[1]][0] + total)
    wanted = run(model, CLEAN).logits[0]
    assert (logits - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("receiver", ["q.2.1", "k.2.0", "v.2.0", "mlp_out.2", "z.3.1"])
def test_through_a_receiver_it_is_the_slow_reference(model: Model, receiver: str):
    needs(model, "attn_out", "mlp_out", "z", receiver.split(".")[0])
    site = model.site(receiver)
    found = path_patching(
        model, CLEAN, CORRUPTED, DIFF, senders="mlp_out", receivers=site, layers="0,1" if site.layer == 2 else "2"
    )
    for cell in found.cells:
        assert near(cell.value, slow_path(model, Site.parse(cell.site), site)), cell


@pytest.mark.parametrize("receiver", ["q.2.1", "k.2.0", "v.2.0"])
def test_projections_that_receive_are_told_apart_where_others_listen(model: Model, receiver: str):
    """With the logits listening too, only what a projection itself does to its head goes on."""
    needs(model, "attn_out", "mlp_out", "z", "q")
    site, last, attention = model.site(receiver), Site("resid_post", model.n_layers - 1), Site("attn_out", 2)
    found = path_patching(model, CLEAN, CORRUPTED, DIFF, senders="mlp_out", receivers=[site, "logits"], layers="0,1")
    corrupted = capture(model, CORRUPTED, [last, attention])
    values = []
    for cell in found.cells:
        sender = Site.parse(cell.site)
        sent = capture(model, CLEAN, [sender])[sender][0] - capture(model, CORRUPTED, [sender])[sender][0]
        heard = heard_by(model, sender, site)
        moved = run(model, CORRUPTED, reads=[attention], writes=[Write(site, Replace(heard))]).activations[attention][0]
        residual = corrupted[last][0] + sent + moved - corrupted[attention][0]
        values.append(float(DIFF.measure(model, model.unembed(residual[-1:]))[0]))
        assert near(cell.value, values[-1]), cell
    direct = path_patching(model, CLEAN, CORRUPTED, DIFF, senders="mlp_out", layers="0,1")
    assert any(abs(cell.value - value) > 2e-5 for cell, value in zip(direct.cells, values, strict=True))


def test_all_of_attention_receives_what_a_part_of_it_does(llama: Model):
    one, both = (
        path_patching(llama, CLEAN, CORRUPTED, DIFF, senders="mlp_out", receivers=receivers, layers="0,1")
        for receivers in ("attn_out.2", ["attn_out.2", "q.2.1"])
    )
    assert [cell.value for cell in one.cells] == pytest.approx([cell.value for cell in both.cells], abs=1e-4)


def heard_by(model: Model, sender: Site, receiver: Site) -> torch.Tensor:
    """What a receiver holds when it is given the corrupted residual stream plus the sender's difference."""
    name = "resid_pre"
    if receiver.component == "mlp_out" and not isinstance(model.architecture.taps["resid_mid"], str):
        name = "resid_mid"
    given = Site(name, receiver.layer)
    clean = capture(model, CLEAN, [sender])[sender][0]
    corrupted = capture(model, CORRUPTED, [sender, given])
    changed = corrupted[given][0] + clean - corrupted[sender][0]
    return run(model, CORRUPTED, reads=[receiver], writes=[Write(given, Replace(changed))]).activations[receiver][0]


def slow_path(model: Model, sender: Site, receiver: Site) -> float:
    """Block by block, and then the receiver written into a run that is otherwise free."""
    return metric_of(model, CORRUPTED, writes=[Write(receiver, Replace(heard_by(model, sender, receiver)))])


def test_the_linearised_paths_add_up_at_the_held_scale(model: Model):
    needs(model, "attn_out", "mlp_out", "z")
    try:
        found = linearised_path_patching(model, CLEAN, CORRUPTED, DIFF)
    except UsageError as refused:
        pytest.skip(str(refused))
    last = Site("resid_post", model.n_layers - 1)
    clean, corrupted = (capture(model, text, [last])[last][0][-1] for text in (CLEAN, CORRUPTED))
    total = Tail.of(model, DIFF, corrupted).share(clean - corrupted)
    assert near(sum(path.attribution for path in found), total), "all paths together are the whole, at the held scale"
    exact = path_patching(model, CLEAN, CORRUPTED, DIFF)
    moved = [exact.at(path.site).value - exact.values["corrupted"] for path in found if path.site.split(".")[0] == "z"]
    held = [path.attribution for path in found if path.site.split(".")[0] == "z"]
    assert torch.corrcoef(torch.tensor([moved, held]))[0, 1] > 0.8
    assert max(abs(one - other) for one, other in zip(moved, held, strict=True)) > 1e-5, "a norm answers"


def test_receivers_that_receive_nothing_are_refused(llama: Model):
    with pytest.raises(UsageError, match="after its sender"):
        path_patching(llama, CLEAN, CORRUPTED, DIFF, senders="mlp_out", receivers="q.1.0", layers="2")
    with pytest.raises(UsageError, match="receiver"):
        path_patching(llama, CLEAN, CORRUPTED, DIFF, receivers="resid_post.1")
    with pytest.raises(UsageError, match="none of the senders"):
        path_patching(llama, CLEAN, CORRUPTED, DIFF, senders="mlp_out", receivers=["q.1.0", "logits"], layers="2")
    with pytest.raises(UsageError, match="senders are"):
        path_patching(llama, CLEAN, CORRUPTED, DIFF, senders="resid_pre")
    parallel = tiny_model("gpt_neox")
    with pytest.raises(UsageError, match="after its sender"):
        path_patching(parallel, CLEAN, CORRUPTED, DIFF, senders="attn_out", receivers="mlp_out.2", layers="2")


def test_the_embedding_sends_too(model: Model):
    needs(model, "attn_out", "mlp_out")
    found = path_patching(model, CLEAN, CORRUPTED, DIFF, senders="embed", receivers="all")
    assert near(found.cells[0].effect, 1.0, 1e-3)


# What they return


def test_results_are_kept_found_again_and_drawn(llama: Model, tmp_path):
    with Store(tmp_path / "store") as store:
        first = tracing(llama, store=store)
        again = tracing(llama, store=store)
    assert first.timing["computed"] == first.timing["cells"] and again.timing["computed"] == 0
    assert first.rows() == again.rows()
    loaded = Result.load(first.save(tmp_path / "traced.json"))
    assert loaded.rows() == first.rows() and loaded.values == first.values
    page = first.page()
    assert "causal tracing" in page and "keeper" in page
    heads = activation_patching(llama, CLEAN, CORRUPTED, DIFF, component="z", heads=True, position="last")
    (one,) = heads.maps()
    assert one.columns == tuple(f"head {head}" for head in range(4))
