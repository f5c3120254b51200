"""Readouts against sums over whole distributions, written out here a second time."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bathyscope import run
from bathyscope.engine import Cell, Given, Read, collect, plan
from bathyscope.engine.partition import needs_tail_only
from bathyscope.errors import UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import NormMatch
from bathyscope.model import Model
from bathyscope.readouts import (
    KL,
    Contains,
    Generate,
    LogitDiff,
    NextToken,
    PrecisionAtK,
    Probability,
    Rank,
    ReverseSurprisal,
    Several,
    Surprisal,
    answer_token,
    normalized,
    readout_of,
)
from bathyscope.sites import Site, residual_site
from tokenizers_for_tests import sentencepiece_like_tokenizer

S, T = "the cat sat on it", "hello cat and x"
EVERYTHING = Several(
    (PrecisionAtK(1), PrecisionAtK(3), Surprisal(), ReverseSurprisal(), KL(), Rank(7), Probability(7), LogitDiff(7, 9))
)


def cells_of(model: Model, readout, layers=(-1, 0, 2, 3), positions=(1, 3)) -> list[Cell]:
    source, target = model.tokenize(S), model.tokenize(T)
    last = len(target) - 1
    return [
        Cell(target, readout, Read(source, residual_site(layer), position), site, (last,))
        for position in positions
        for layer in layers
        for site in (residual_site(layer), Site("resid_post", model.n_layers - 1))
    ]


def plain_logits(model: Model, cell: Cell) -> torch.Tensor:
    """The target's last logits, by a pass over the whole prompt under a hook."""
    whole = run(model, cell.source.prompt, reads=[cell.source.site])
    write = Write(cell.site, Replace(whole.activations[cell.source.site][0][cell.source.position]), cell.positions)
    return run(model, cell.target, writes=[write]).logits[0][-1].double()


def test_every_value_is_what_the_whole_distributions_say(model: Model):
    cells = cells_of(model, EVERYTHING)
    assert sum(needs_tail_only(cell, model.n_layers) for cell in cells) >= len(cells) // 2
    own = run(model, S).logits[0].double()
    for cell, reading in zip(cells, collect(plan(cells, model, model), model, model).readings, strict=True):
        p = torch.softmax(own[cell.source.position], -1)
        logits = plain_logits(model, cell)
        q = torch.softmax(logits, -1)
        wanted = {
            "precision_at_1": float(p.argmax() == q.argmax()),
            "precision_at_3": float(p.argmax() in q.topk(3).indices),
            "surprisal": float(-p[q.argmax()].log()),
            "reverse_surprisal": float(-q[p.argmax()].log()),
            "kl": float((p * (p / q).log()).sum()),
            "rank": float((q > q[7]).sum()),
            "probability": float(q[7]),
            "logit_diff": float(logits[7] - logits[9]),
        }
        assert reading.values == pytest.approx(wanted, rel=2e-3, abs=2e-4), (str(cell.source.site), str(cell.site))
        assert reading.ids == (int(q.argmax()),)


def test_surprisal_is_least_where_the_choice_is_the_sources_own(model: Model):
    cells = cells_of(model, Several((Surprisal(), PrecisionAtK(1))), layers=(0, model.n_layers - 1))
    own = torch.log_softmax(run(model, S).logits[0], -1)
    for cell, reading in zip(cells, collect(plan(cells, model, model), model, model).readings, strict=True):
        least = float(-own[cell.source.position].max())
        assert reading.values["surprisal"] >= least - 1e-4
        if cell.source.site.layer == model.n_layers - 1 == cell.site.layer:
            assert reading.values == pytest.approx({"surprisal": least, "precision_at_1": 1.0}, abs=1e-4)


def test_a_given_vector_is_a_vector_that_was_read(llama: Model):
    source, target, site = llama.tokenize(S), llama.tokenize(T), Site("resid_post", 1)
    value = run(llama, source, reads=[site]).activations[site][0][2]
    readout = Several((NextToken(3), KL()))
    read = Cell(target, readout, Read(source, site, 2), site, (3,))
    given = Cell(target, readout, Given(value, site), site, (3,), against=Read(source, site, 2))
    found = collect(plan([read, given], llama, llama), llama, llama)
    assert found.readings[0] == found.readings[1]
    assert torch.equal(*found.representations)
    assert read.spec() != given.spec()


def test_a_mapping_that_looks_at_what_it_replaces_gets_a_pass(llama: Model):
    cell = cells_of(llama, NextToken(3))[1]
    matched = Cell(cell.target, cell.readout, cell.source, cell.site, cell.positions, NormMatch())
    assert needs_tail_only(cell, llama.n_layers)
    assert not needs_tail_only(matched, llama.n_layers)
    # A norm follows, so that the length changes nothing: two ways, one answer.
    found = collect(plan([cell, matched], llama, llama), llama, llama).readings
    assert found[0].ids == found[1].ids


def test_a_tail_runs_no_target_pass_and_says_so(llama: Model):
    cells = [cell for cell in cells_of(llama, NextToken(2)) if needs_tail_only(cell, llama.n_layers)]
    planned = plan(cells, llama, llama)
    assert (planned.target_passes, planned.batch_passes, len(planned.batches)) == (0, 0, 1)
    assert planned.source_passes == 1
    assert "writing behind the last block without a pass" in planned.explain()
    assert planned.token_layers == len(llama.tokenize(S)) * llama.n_layers


def test_a_comparison_without_a_source_is_refused(llama: Model):
    cells = [Cell(llama.tokenize(T), KL())]
    with pytest.raises(UsageError, match="nothing to compare with"):
        collect(plan(cells, llama, llama), llama, llama)
    with pytest.raises(UsageError, match="one vocabulary"):
        KL().check(llama, OTHER)


OTHER = SimpleNamespace(name="other", vocabulary=17, tokenizer=SimpleNamespace(get_vocab=dict))


@pytest.mark.parametrize("readout", [Probability("the cat"), Rank(""), LogitDiff(7, 7), Probability(10**6)])
def test_what_is_no_token_is_refused(llama: Model, readout):
    with pytest.raises(UsageError):
        readout.check(llama, llama)


def test_contains_matches_whole_words_whatever_their_case():
    assert Contains("New York").found_in(": NEW  york, a city")
    assert not Contains("art").found_in("a party")
    assert Contains("naïve").found_in("NAI\u0308VE view")
    assert normalized("a-b  C") == "a b c"
    with pytest.raises(UsageError):
        Contains(" . ")


def test_contains_is_read_from_what_was_written(llama: Model):
    target = llama.tokenize(T)
    text = collect(plan([Cell(target, Generate(6))], llama, llama), llama, llama).readings[0].text
    word = max(normalized(text).split(), key=len)
    found = collect(
        plan([Cell(target, Contains(word, 6)), Cell(target, Contains("zzzz", 6))], llama, llama), llama, llama
    )
    assert [one.values["contains"] for one in found.readings] == [1.0, 0.0]


@pytest.mark.parametrize("readout", [EVERYTHING, Contains("x", 3), NextToken(2), Generate(4)])
def test_a_readout_is_made_again_from_its_spec(readout):
    assert readout_of(readout.spec()) == readout


def test_several_of_different_lengths_are_refused():
    with pytest.raises(UsageError, match="different numbers of new tokens"):
        Several((Generate(3), KL()))
    with pytest.raises(UsageError, match="at least 1 readout"):
        Several(())


def test_an_answers_first_token_is_found_behind_its_prompt(llama: Model):
    for prompt, answer in (("The capital of France is", "Paris"), ("The cat of", "the"), ('She said "', "the")):
        found = answer_token(llama, answer, after=prompt)
        whole, alone = llama.tokenize(prompt + found.whole).ids, llama.tokenize(prompt).ids
        assert whole[: len(alone)] == alone and found.id == whole[len(alone)]
        assert found.n_tokens == len(whole) - len(alone)
    assert answer_token(llama, "the", after="The (").whole == "the"
    assert answer_token(llama, "the", after="The cat").whole == " the"
    pieces = replace(llama, tokenizer=sentencepiece_like_tokenizer(), _modules={}, _texts={})
    found = answer_token(pieces, "the", after="The cat of")
    assert found.id == pieces.tokenize("The cat of the").ids[len(pieces.tokenize("The cat of"))]
    with pytest.raises(UsageError, match="seen"):
        answer_token(llama, " ", after="The")
