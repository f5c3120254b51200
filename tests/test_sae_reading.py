"""Reading latents: numbers beside those found the slow way, rules beside planted ones, a page that is safe."""

import base64
import hashlib
import itertools
import json
import math
import re
from dataclasses import replace

import pytest
import torch

from bathyscope import capture
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting import usable
from bathyscope.model import Model
from bathyscope.results import Result
from bathyscope.sae import KeepAbove, KeepTop, SparseCoder
from bathyscope.sae.reading import (
    Agreement,
    Description,
    MeasuredRule,
    Rule,
    describe_latents,
    nearest_latents,
    passes,
    promoted_tokens,
    read_latents,
)
from bathyscope.sae.reading.activity import edge
from bathyscope.sae.reading.dashboard import page_data
from bathyscope.sae.reading.examples import SAME, Best, at_random
from bathyscope.sae.reading.latent import LABEL_F1, LABEL_GAIN
from bathyscope.sae.reading.passes import Block, Entries
from bathyscope.sae.reading.reading import AFTER, BEFORE, SAMPLED
from bathyscope.sae.reading.rule_choice import best_sets, choose_rules
from bathyscope.sae.reading.rule_counts import Counts
from bathyscope.sae.reading.rule_finding import RuleFinder
from bathyscope.sae.reading.shapes import shapes_of
from bathyscope.sites import Site
from bathyscope.texts import Texts, given_texts, windows
from conftest import tiny_model
from tokenizers_for_tests import PLAIN_ENGLISH

SITE, LENGTH, N_LATENTS = Site("resid_post", 2), 32, 60
DOCUMENTS = [PLAIN_ENGLISH[first : first + 450] for first in range(0, 1300, 130)]
"""They overlap, so that the same contexts are met again."""


def coder_at(site: Site, model: Model, n_latents: int = N_LATENTS, k: int = 5) -> SparseCoder:
    draw = torch.Generator().manual_seed(3)
    width = model.d_model
    encoder, decoder = (torch.randn(n_latents, width, generator=draw) for _ in range(2))
    bias = 0.5 * torch.randn(width, generator=draw)
    return SparseCoder(encoder, torch.zeros(n_latents), decoder, bias, KeepTop(k), site=site, target=site)


@pytest.fixture(scope="module")
def texts() -> Texts:
    return given_texts(DOCUMENTS)


@pytest.fixture(scope="module")
def coder() -> SparseCoder:
    return coder_at(SITE, tiny_model())


@pytest.fixture(scope="module")
def readings(texts, coder):
    return read_latents(tiny_model(), coder, texts, length=LENGTH, n_examples=6)


@pytest.fixture(scope="module")
def slowly(coder):
    """What is there, one window after another: ids, dense latents with sinks at 0, scores, which positions count."""
    model, found = tiny_model(), []
    for half in (DOCUMENTS[::2], DOCUMENTS[1::2]):
        for window in windows(model, given_texts(half), length=LENGTH):
            (x,) = capture(model, [window], [SITE])[SITE]
            kept = usable(x)
            pre = x @ coder.encoder.T
            dense = torch.where(pre >= pre.topk(5, dim=-1).values[:, -1:], pre.clamp_min(0), 0.0) * kept[:, None]
            found.append((window.ids, dense, dense / (x - coder.decoder_bias).norm(dim=-1, keepdim=True), kept))
    return found


def best_slowly(slowly, latent: int, *, distinct: bool = True) -> list[tuple[float, int, int]]:
    """(score, window, position) of the positions that rank highest."""
    every, seen, found = [], set(), []
    for number, (_, dense, scores, _) in enumerate(slowly):
        there = [(-float(scores[at, latent]), number, at) for at in dense[:, latent].nonzero().flatten().tolist()]
        every += sorted(there)[: 1 if distinct else None]
    for score, number, at in sorted(every):
        ids = slowly[number][0]
        context = tuple(ids[max(0, at - SAME + 1) : at + 1])
        if context not in seen or not distinct:
            found.append((-score, number, at))
        seen.add(context)
    return found


def test_examples_are_those_of_a_full_sort(readings, slowly):
    compared = 0
    for latent in range(N_LATENTS):
        expected = best_slowly(slowly, latent)[:6]
        found = readings[latent].examples
        assert len(found) == len(expected)
        for one, (score, number, at) in zip(found, expected, strict=True):
            ids, dense, _, _ = slowly[number]
            first, stop = max(0, at - BEFORE), min(len(ids), at + AFTER + 1)
            assert math.isclose(one.score, score, rel_tol=1e-4)
            assert math.isclose(one.activation, float(dense[at, latent]), rel_tol=1e-4)
            assert one.tokens == tiny_model().token_texts(ids[first:stop])
            assert one.peak == at - first
            assert torch.allclose(torch.tensor(one.activations), dense[first:stop, latent], rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared > 4 * N_LATENTS


def test_without_the_rule_of_distinct_contexts_the_same_would_be_listed_twice(slowly):
    repeated = 0
    for latent in range(N_LATENTS):
        best = best_slowly(slowly, latent, distinct=False)[:6]
        contexts = [slowly[number][0][max(0, at - SAME + 1) : at + 1] for _, number, at in best]
        repeated += len(contexts) - len(set(contexts))
    assert repeated > 10


def test_how_text_is_cut_into_blocks_changes_nothing(readings, texts, coder, monkeypatch):
    monkeypatch.setattr(passes, "BLOCK", LENGTH)
    again = read_latents(tiny_model(), coder, texts, length=LENGTH, n_examples=6)
    assert torch.equal(again.examples.places, readings.examples.places)
    assert torch.equal(again.samples.places, readings.samples.places)
    assert torch.equal(again.activity.histogram, readings.activity.histogram)
    assert [one and (one.rule, one.held_out) for one in again.rules] == [
        one and (one.rule, one.held_out) for one in readings.rules
    ]


def block_of(
    ids: list[int], active: dict[int, list[int]], half: str = "fit", scores: dict[int, float] | None = None
) -> Block:
    """One window in which latents are active at given places, all at 1."""
    pairs = sorted((place, latent) for latent, places in active.items() for place in places)
    places, latents = (torch.tensor([pair[part] for pair in pairs]) for part in (0, 1))
    values = torch.ones(len(pairs))
    ranked = values if scores is None else torch.tensor([scores[place] for place, _ in pairs])
    starts, rows = torch.tensor([0, len(ids)]), torch.arange(len(ids))
    return Block(half, 0, torch.tensor(ids), starts, rows, Entries(latents, places, values, ranked))


def test_a_long_token_does_not_lead_the_list():
    """Activation 100 in an input of length 1,000 ranks below 5 in one of length 10."""
    model = tiny_model()
    rows, site = torch.eye(model.d_model)[:1], SITE
    zeros = torch.zeros(1), torch.zeros(model.d_model)
    coder = SparseCoder(rows, zeros[0], rows, zeros[1], KeepAbove(torch.tensor(0.0)), site=site, target=site)
    x = torch.zeros(2, model.d_model)
    x[0, 0], x[0, 1], x[1, 0], x[1, 1] = 100, 995, 5, 8.66
    reader = passes.Pass(model, coder, site, torch.arange(1), given_texts(["a", "b"]), 2, 2, Stop())
    entries = reader._entries(x, torch.arange(2))
    assert entries.values.tolist() == [100.0, 5.0]
    assert [round(score, 2) for score in entries.scores.tolist()] == [0.1, 0.5]


def test_best_keeps_what_a_sort_would_whatever_the_order():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(40, generator=draw)
    best, reverse = Best(1, 4, 1, 1), Best(1, 4, 1, 1)
    blocks = []
    for number, score in enumerate(scores.tolist()):
        made = block_of([number], {0: [0]}, scores={0: score})
        ids, starts, rows = made.ids, made.starts + number, made.rows + number
        entries = Entries(made.entries.latents, made.entries.places + number, made.entries.values, made.entries.scores)
        blocks.append(Block("fit", number, ids, starts, rows, entries))
    for one in blocks:
        best.add(one, one.entries)
    for one in reversed(blocks):
        reverse.add(one, one.entries)
    assert best.examples().places[0].tolist() == scores.argsort(descending=True)[:4].tolist()
    assert reverse.examples().places[0].tolist() == best.examples().places[0].tolist()


def test_histogram_and_density_count_every_active_position(readings, slowly):
    dense, kept = torch.cat([one[1] for one in slowly]), torch.cat([one[3] for one in slowly])
    assert readings.activity.n_rows == int(kept.sum())
    assert readings.activity.n_sinks == int((~kept).sum())
    assert readings.activity.active.tolist() == (dense > 0).sum(0).tolist()
    assert torch.allclose(readings.activity.largest, dense.amax(0), rtol=1e-4)
    for latent in range(0, N_LATENTS, 7):
        values = dense[:, latent][dense[:, latent] > 0].numpy()
        edges = [edge(number) for number in range(65)]
        slow = [int(((values >= low) & (values < high)).sum()) for low, high in itertools.pairwise(edges)]
        # An activation that lies on an edge but for rounding may fall on either side.
        assert (
            sum(abs(one - other) for one, other in zip(slow, readings.activity.histogram[latent].tolist(), strict=True))
            <= 2
        )
        one = readings[latent]
        assert sum(count for _, count in one.histogram) == one.active == len(values)
        assert one.density == pytest.approx(len(values) / int(kept.sum()))


def test_samples_are_of_each_quarter_and_sorted(readings):
    full = [one for one in map(readings.__getitem__, range(N_LATENTS)) if len(one.samples) == 8]
    assert full
    for one in full:
        values = [sample.activation for sample in one.samples]
        assert values == sorted(values, reverse=True)
        assert len({sample.score for sample in one.samples}) == 8


def test_samples_are_of_all_active_positions(readings, slowly):
    """Those of the lowest scores of a hash, sorted slowly: several of a window, and of one context, among them."""
    together = same = 0
    for latent in range(N_LATENTS):
        places, at = [], 0
        for ids, dense, _, _ in slowly:
            places += [at + one for one in dense[:, latent].nonzero().flatten().tolist()]
            at += len(ids)
        every = torch.tensor(places, dtype=torch.int64)
        scored = at_random(Entries(torch.full_like(every, latent), every, torch.ones(len(every)), every.float()), 0)
        drawn = every[scored.scores.argsort(descending=True)[:SAMPLED]].tolist()
        found = readings.samples.places[latent]
        assert set(found[found >= 0].tolist()) <= set(drawn)
        starts = torch.tensor([0, *(len(one[0]) for one in slowly)]).cumsum(0)
        window = torch.searchsorted(starts, torch.tensor(drawn), right=True)
        together += len(drawn) - len(window.unique())
        ids = torch.tensor([token for one in slowly for token in one[0]])
        contexts = [tuple(ids[max(0, one - SAME + 1) : one + 1].tolist()) for one in drawn]
        same += len(contexts) - len(set(contexts))
    assert together > 10 and same > 10


def test_samples_are_drawn_without_regard_to_activation(coder, texts):
    """Their mean is near that of all activations, which the mean of the best is far above."""
    found = read_latents(tiny_model(), coder_at(SITE, tiny_model(), k=30), texts, length=LENGTH)
    dense = [found.activity.histogram.double() @ torch.tensor([edge(number) for number in range(64)]).double()]
    means = dense[0] / found.activity.active.clamp_min(1)
    often = found.activity.active > 100
    there = found.samples.places >= 0
    sampled = (found.samples.values * there).sum(1) / there.sum(1).clamp_min(1)
    best = found.examples.values.mean(1)
    assert often.sum() > 10
    # A bin's edge is below its activations by at most the factor 2**.5.
    assert (sampled / means)[often].mean() == pytest.approx(1.2, abs=0.2)
    assert (best / means)[often].mean() > 1.5


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_promoted_tokens_are_the_extremes_of_decoder_times_unembedding(name, monkeypatch):
    model = tiny_model(name)
    coder = coder_at(SITE, model)
    monkeypatch.setattr("bathyscope.sae.reading.directions.ROWS", 7)
    found = promoted_tokens(model, coder, k=10)
    product = coder.decoder @ model.unembedding.weight.T
    assert torch.equal(found.up, product.argsort(1, descending=True)[:, :10])
    assert torch.equal(found.down, product.argsort(1)[:, :10])
    assert torch.allclose(found.down_by, product.gather(1, found.down), atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_with_the_norm_folded_they_are_the_change_of_logits_at_a_fixed_length(name):
    """Logits times the length that the norm divides by are linear in the residual stream."""
    model, draw = tiny_model(name), torch.Generator().manual_seed(1)
    coder = coder_at(SITE, model, n_latents=4)
    norm = model.hf.get_submodule(model.architecture.norm)
    x = torch.randn(model.d_model, generator=draw)

    def scaled(residual: torch.Tensor) -> torch.Tensor:
        centred = residual - residual.mean() if "LayerNorm" in type(norm).__name__ else residual
        length = centred.pow(2).mean().sqrt()
        offset = norm(torch.zeros(1, model.d_model))[0]
        with torch.no_grad():
            return model.unembedding.weight @ ((norm(residual[None])[0] - offset) * length)

    found = promoted_tokens(model, coder, k=5, fold_norm=True)
    for row, direction in enumerate(coder.decoder):
        change = scaled(x + direction) - scaled(x)
        assert change.topk(5).indices.tolist() == found.up[row].tolist()
        assert torch.allclose(change.topk(5).values, found.up_by[row], rtol=1e-3, atol=1e-3)
    assert found.folded


def test_nearest_latents_are_those_of_all_cosines(coder, monkeypatch):
    monkeypatch.setattr("bathyscope.sae.reading.directions.ROWS", 7)
    found = nearest_latents(coder, k=4)
    for latent in range(N_LATENTS):
        cosines = torch.cosine_similarity(coder.decoder[latent], coder.decoder, dim=1)
        cosines[latent] = -2
        assert found.latents[latent].tolist() == cosines.topk(4).indices.tolist()
        assert torch.allclose(found.cosines[latent], cosines.topk(4).values, atol=1e-5)
        own = torch.cosine_similarity(coder.encoder[latent], coder.decoder[latent], dim=0)
        assert float(found.own[latent]) == pytest.approx(float(own), abs=1e-5)


# Rules


def test_a_set_is_the_best_of_all_sets():
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 7, (300,), generator=draw).tolist()
    active = {latent: torch.randperm(300, generator=draw)[: 20 + 30 * latent].tolist() for latent in range(4)}
    for latent in (1, 2):  # two that do depend on the token
        active[latent] = [place for place in active[latent] if ids[place] in (1, 2, 5)] or [0]
    counts = Counts(4, 7)
    block = block_of(ids, active)
    counts.add(block, block.entries.latents, block.entries.places)
    counts.settle()
    for offset, size in itertools.product((0, -1, -2), (1, 2, 3)):
        found = best_sets(counts, offset, size)
        for latent, places in active.items():
            best = 0.0
            for chosen in itertools.chain(*(itertools.combinations(range(7), n) for n in range(1, size + 1))):
                fires = [at for at in range(-offset, 300) if ids[at + offset] in chosen]
                best = max(best, Agreement(len({*fires} & {*places}), len(fires), len(places)).f1)
            reached = Agreement(int(found.hits[latent]), int(found.fires[latent]), len(places)).f1
            assert reached == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("offset", "tokens"), [(0, (3,)), (-1, (3, 5)), (-2, (1, 2, 4))])
def test_a_planted_rule_is_found(offset, tokens):
    ids = torch.randint(0, 12, (600,), generator=torch.Generator().manual_seed(1)).tolist()
    planted = [place for place in range(-offset, 600) if ids[place + offset] in tokens]
    finder = RuleFinder(1, torch.zeros(12, 9, dtype=torch.bool), seed=0)
    finder.add(block_of(ids, {0: planted}))
    finder.add(
        block_of(ids[::-1], {0: [p for p in range(-offset, 600) if ids[::-1][p + offset] in tokens]}, "held out")
    )
    (found,) = finder.rules()
    assert (found.rule.offset, set(found.rule.tokens)) == (offset, set(tokens))
    assert found.held_out.f1 == 1
    assert found.control.f1 < 0.5 < found.gain


def test_a_planted_shape_is_found_before_a_set():
    words = [f" {number}" for number in range(10)] + ["a", "b", ".", " Cat"]
    ids = torch.randint(0, 14, (600,), generator=torch.Generator().manual_seed(1)).tolist()
    block = block_of(ids, {0: [place for place in range(600) if ids[place] < 10]})
    counts = Counts(1, 14)
    counts.add(block, block.entries.latents, block.entries.places)
    counts.settle()
    ((rule, agreement),) = choose_rules(counts, shapes_of(words))
    assert (rule, agreement.f1) == (Rule(0, shape="digits"), 1.0)
    assert rule.words(lambda _: None) == "is digits"


def test_a_rule_is_measured_on_documents_that_it_was_not_chosen_on():
    """A latent that does one thing in one half and another in the other has a perfect rule, and a useless one."""
    ids = [3, 4, 0, 0] * 50
    finder = RuleFinder(1, torch.zeros(6, 9, dtype=torch.bool), seed=0)
    finder.add(block_of(ids, {0: list(range(0, 200, 4))}))
    finder.add(block_of(ids, {0: list(range(2, 200, 4))}, "held out"))
    (found,) = finder.rules()
    assert (found.fitted.f1, found.held_out.f1) == (1.0, 0.0)
    assert found.held_out == Agreement(0, 50, 50)


def test_rules_of_noise_are_no_better_than_their_controls():
    draw = torch.Generator().manual_seed(2)
    finder = RuleFinder(60, torch.zeros(50, 9, dtype=torch.bool), seed=0)
    for half in ("fit", "held out"):
        ids = torch.randint(0, 50, (2000,), generator=draw).tolist()
        finder.add(block_of(ids, {n: torch.randperm(2000, generator=draw)[:60].tolist() for n in range(60)}, half))
    gains = torch.tensor([one.gain for one in finder.rules() if one])
    assert abs(float(gains.mean())) < 3 * float(gains.std()) / len(gains) ** 0.5
    assert not any(one.held_out.f1 >= LABEL_F1 and one.gain >= LABEL_GAIN for one in finder.rules() if one)


def test_a_latent_that_reads_one_token_is_labelled_with_it():
    """A latent at the embedding whose encoder is one token's: its rule is found in the text, and is its label."""
    model, site = tiny_model(), Site("embed")
    token = model.tokenize(" the").ids[-1]
    row = model.hf.get_input_embeddings().weight[token].detach()[None]
    bias = torch.tensor([-0.9])
    threshold = KeepAbove(torch.tensor(0.0))
    coder = SparseCoder(row / row.norm() ** 2, bias, row, torch.zeros(model.d_model), threshold, site=site, target=site)
    found = read_latents(model, coder, given_texts(DOCUMENTS), length=LENGTH)[0]
    there = sum(window.ids[1:].count(token) for window in windows(model, given_texts(DOCUMENTS[1::2]), length=LENGTH))
    assert (found.label, found.label_from) == ('is " the"', "rule")
    assert found.rule.held_out == Agreement(there, there, there)
    assert found.rule.control.f1 < 0.3


def test_half_of_the_documents_are_held_out(readings, slowly):
    held_out = sum(len(list(windows(tiny_model(), given_texts([one]), length=LENGTH))) for one in DOCUMENTS[1::2])
    dense = torch.cat([one[1] for one in slowly[-held_out:]])
    for latent, rule in enumerate(readings.rules):
        if rule:
            assert rule.held_out.active == int((dense[:, latent] > 0).sum())


# Descriptions


@pytest.fixture(scope="module")
def described(readings, coder):
    return describe_latents(tiny_model(), coder, readings, [3, 9], new_tokens=4, n_random=3, scales=(1.0, 2.0))


def test_a_descriptions_score_is_what_its_text_does_to_the_latent(described, coder):
    model = tiny_model()
    for latent in (3, 9):
        one = described[latent].description
        (x,) = capture(model, "\n" + one.text, [SITE])[SITE]
        dense = coder.encode(x[len(model.tokenize("\n")) :]).dense()[:, latent]
        assert one.score == pytest.approx(float(dense.max()) / described[latent].largest, rel=1e-4)
        assert one.n_controls == 4


def test_a_description_must_beat_every_control_and_no_label_depends_on_it(readings, described):
    better, worse = Description("cats", 3, 1.0, 0.5, 0.4, 9), Description("cats", 3, 1.0, 0.5, 0.5, 9)
    assert (better.shown, worse.shown) == ("cats", "says nothing")
    both = readings.with_descriptions({3: better, 9: worse})
    for latent in (3, 9):
        assert both[latent].label == readings[latent].label == described[latent].label
    assert both.facts()["descriptions"] == "1 of 2 beat their controls; 0.2 would by chance"


def test_controls_search_as_long_as_the_latent_does(readings, coder):
    """A latent whose decoder row is one of its own random controls cannot beat it."""
    from bathyscope.controls import random_vector

    decoder = coder.decoder.clone()
    decoder[3] = random_vector("latent control 0", (coder.d_out,), seed=0)
    same = SparseCoder(
        coder.encoder, coder.encoder_bias, decoder, coder.decoder_bias, coder.selection, site=SITE, target=SITE
    )
    one = describe_latents(tiny_model(), same, readings, [3], new_tokens=4, n_random=3)[3].description
    assert one.control >= one.score
    assert one.shown == "says nothing"


# The result


def test_a_saved_result_is_the_same(described, tmp_path):
    again = Result.load(described.save(tmp_path / "readings.json"))
    assert [again[latent] for latent in range(N_LATENTS)] == [described[latent] for latent in range(N_LATENTS)]
    assert again.rows() == described.rows()


def test_some_latents_are_those_of_all(readings, texts, coder):
    alone = read_latents(tiny_model(), coder, texts, length=LENGTH, n_examples=6, latents=[9, 40])
    for latent in (9, 40):
        one, other = alone[latent], readings[latent]
        assert one.examples == other.examples
        assert one.rule.rule == other.rule.rule
        assert one.rule.held_out == other.rule.held_out
        assert [each.latent for each in one.neighbours] == [each.latent for each in other.neighbours]
        assert readings.of([9, 40])[latent] == other
        assert len(readings.of([latent]).text.ids) < len(readings.text.ids)
    assert alone.activity.active.tolist() == readings.activity.active[[9, 40]].tolist()
    with pytest.raises(UsageError, match="latent 3 was asked for"):
        _ = alone[3]


def test_orders_and_search(readings):
    active = readings.activity.active
    assert readings.order("density")[0] == int(active.argmax())
    assert readings.order("max")[0] == int(readings.activity.largest.argmax())
    assert readings.order("number") == list(range(N_LATENTS))
    gains = [
        (active[latent] >= 10, readings.rules[latent].gain) for latent in readings.order() if readings.rules[latent]
    ]
    assert gains == sorted(gains, reverse=True)
    word = readings[7].promoted[0].token.strip()
    expected = {
        latent
        for latent in range(N_LATENTS)
        if word.casefold()
        in "\n".join(
            [
                str(latent),
                readings[latent].rule_words,
                *(token.token for token in readings[latent].promoted),
                *(one.tokens[one.peak] for one in readings[latent].examples),
            ]
        ).casefold()
    }
    assert set(readings.search(word)) == expected
    assert 7 in expected


def test_what_cannot_be_read_is_refused(readings, texts, coder):
    model = tiny_model()
    with pytest.raises(UsageError, match="a text of one document"):
        read_latents(model, coder, given_texts(["The cat of the keeper lives."]))
    with pytest.raises(UsageError, match="latents 60 were asked for"):
        read_latents(model, coder, texts, latents=[60])
    with pytest.raises(UsageError, match="n_tokens=255 was given with length=128"):
        read_latents(model, coder, texts, n_tokens=255)
    with pytest.raises(CancelledError):
        read_latents(model, coder, texts, length=LENGTH, stop=Stop(soon=True))
    heads = Site("mlp_post", 1)
    wide = torch.randn(4, 80, generator=torch.Generator().manual_seed(0))
    elsewhere = SparseCoder(wide, torch.zeros(4), wide, torch.zeros(80), KeepTop(2), site=heads, target=heads)
    found = read_latents(model, elsewhere, texts, length=LENGTH)
    assert found.promoted is None
    assert found[0].promoted == ()
    with pytest.raises(UsageError, match=r"a coder that writes at mlp_post\.1"):
        describe_latents(model, elsewhere, found, [0])


# The page


def decoded(data: dict, name: str) -> torch.Tensor:
    kind, text = data["columns"][name]
    dtype = {"u1": torch.uint8, "u2": torch.uint16, "u4": torch.uint32, "f4": torch.float32}[kind]
    flat = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype)
    return flat.view(-1, data["widths"][name]) if name in data["widths"] else flat


def test_the_page_holds_what_the_result_does(readings):
    data = page_data(readings, readings.facts())
    words, text = data["words"], decoded(data, "text").long()
    stops = [0, *decoded(data, "exampleStops").tolist()]
    at, share = (decoded(data, f"example{name}").long() for name in ("At", "Share"))
    for row in range(0, N_LATENTS, 5):
        one = readings[row]
        assert [words[token] for token in decoded(data, "up").long()[row]] == [token.token for token in one.promoted]
        for rank, example in enumerate(one.examples):
            place = int(decoded(data, "example").long()[row, rank]) - 1
            assert words[text[place]] == example.tokens[example.peak]
            number = row * 6 + rank
            entries = range(stops[number], stops[number + 1])
            found = {int(at[entry]): int(share[entry]) / 65535 * one.largest for entry in entries}
            first = BEFORE - example.peak
            expected = {first + place: value for place, value in enumerate(example.activations) if value}
            assert found == pytest.approx(expected, rel=1e-3, abs=one.largest * 1e-4)
        assert decoded(data, "f1")[row] == pytest.approx(one.rule.held_out.f1 if one.rule else 0)


def test_hostile_tokens_stay_text(readings):
    hostile = '</script><script>alert(1)</script><!-- "\u2028'
    words = {token: hostile for token in readings.text.words}
    poisoned = replace(readings, text=replace(readings.text, words=words))
    poisoned = poisoned.with_descriptions({0: Description(hostile, 1, 1.0, 1.0, 0.0, 9)})
    page = poisoned.to_html()
    inside = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(inside) == page.count("<script") == 2
    assert json.loads(inside[0])["words"][0] == hostile
    assert "<" not in inside[0]
    allowed = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in page
    assert "alert(1)" not in poisoned.page().replace("&lt;script&gt;alert(1)", "")


def test_the_page_asks_nobody_and_reads_no_text_as_html(readings):
    page = readings.to_html()
    assert not re.search(r"https?:|url\(|@import|src=|<link", page)
    script = page.rpartition("<script")[2]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp", script
    )


def test_a_rule_goes_to_json_and_back():
    rule = MeasuredRule(Rule(-1, (4, 5)), Agreement(1, 2, 3), Agreement(4, 5, 6), None)
    assert MeasuredRule.from_list(json.loads(json.dumps(rule.to_list()))) == rule
