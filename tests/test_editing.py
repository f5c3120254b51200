"""Edits of a circuit's latents and errors: what is measured, what is predicted, and what is found once only."""

import pytest
import torch

from agreement_model import SITES, agreement_model, coders
from bathyscope import capture, run
from bathyscope.causal.pairs import pair
from bathyscope.circuits import Change, Editor, Examples, Latents, edit_features, feature_attributions, runs
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.facts import agreement_pairs
from bathyscope.readouts import LogitDiff
from bathyscope.sae import Splice


def examples(n: int = 12) -> Examples:
    model, drawn = agreement_model(), agreement_pairs("nounpp", nouns="train", n=n)
    metrics = [LogitDiff(one.answer, one.wrong_answer) for one in drawn]
    return Examples(
        model, [pair(model, one.clean, one.corrupted, metric) for one, metric in zip(drawn, metrics, strict=True)]
    )


def active(pairs: Examples, site: str, position: int) -> list[int]:
    """Latents that are active at a position of the pairs, the most active first."""
    coder = coders()[SITES.index(site)]
    values = torch.stack(
        [one[position] for one in next(iter(capture(agreement_model(), pairs.clean, [site]).values()))]
    )
    return coder.encode(values).dense().mean(0).argsort(descending=True)[:4].tolist()


def differences(pairs: Examples, writes: list) -> torch.Tensor:
    """Logit differences by whole forward passes, without anything that is passed over."""
    logits = torch.stack([one[-1] for one in run(agreement_model(), pairs.clean, writes=writes).logits]).double()
    rows = torch.arange(len(pairs))
    return logits[rows, pairs.answers[:, 0]] - logits[rows, pairs.answers[:, 1]]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each pass has."""
    found: list[int] = []
    original = runs.differences

    def counted(model, rows, *rest):
        found.append(len(rows))
        return original(model, rows, *rest)

    monkeypatch.setattr(runs, "differences", counted)
    return found


@pytest.mark.parametrize("site", SITES)
def test_the_second_edit_of_a_site_is_a_few_passes_and_the_same_numbers(site: str, passes: list[int]):
    pairs = examples()
    editor = Editor(coders(), pairs)
    first, second = active(pairs, site, 1)[:2]
    editor.edit([Change(site, first, 1)])
    assert sum(passes) == len(pairs) * (8 + 1 + 1 + 5), "gradients, the pairs as they are, the edit, and controls"
    passes.clear()
    found = editor.edit([Change(site, second, 1)])
    assert passes == [len(pairs)] * 6
    fresh = edit_features(agreement_model(), coders(), [Change(site, second, 1)], pairs)
    for part in ("rows", "before", "after", "controls"):
        assert found.to_dict()[part] == fresh.to_dict()[part]


def test_a_group_is_its_members_alone_and_all_together(passes: list[int]):
    pairs = examples()
    editor = Editor(coders(), pairs)
    changes = [Change(site, active(pairs, site, 1)[0], 1, 0.5) for site in SITES]
    editor.edit(changes)
    passes.clear()
    found = editor.edit(changes)
    assert len(passes) == 1 + 2 + 5
    for change, row in zip(changes, found.changes, strict=True):
        (alone,) = editor.edit([change]).changes
        assert row == alone
    expected = differences(pairs, editor.writes(changes)).mean()
    assert found.after["logit_difference"] == pytest.approx(float(expected), abs=1e-4)


def test_predictions_are_those_of_attributions():
    pairs, site = examples(), agreement_model().site(SITES[1])
    coder = coders()[1]
    latent = active(pairs, SITES[1], 1)[0]
    (row,) = Editor(coders(), pairs, steps=4).edit([Change(SITES[1], latent, 1)]).changes
    attributed = feature_attributions(pairs, {site: Latents(coder)}, steps=4)
    held = attributed.ends[site].clean[:, 1]
    values, slopes = coder.encode(held).dense()[:, latent], attributed.gradients[site][:, 1] @ coder.decoder[latent]
    assert row["predicted"] == pytest.approx(float(-(values * slopes).mean()), abs=1e-5)
    assert row["predicted"] != 0


@pytest.mark.parametrize("site", SITES)
def test_an_error_that_is_taken_away_leaves_what_the_coder_writes(site: str):
    pairs, coder = examples(), coders()[SITES.index(site)]
    found = Editor(coders(), pairs).edit([Change.parse(f"{site}/error@2"), Change.parse(f"{site}/3@2=1")])
    alone = Editor(coders(), pairs).edit([Change.parse(f"{site}/error@2")])
    splice = Splice(coder, "drop").write(agreement_model(), position=2)
    expected = differences(pairs, [splice]).mean() - differences(pairs, []).mean()
    assert alone.changes[0]["measured"] == pytest.approx(float(expected), abs=1e-4)
    assert found.changes[0] == alone.changes[0] and alone.changes[0]["change"] == f"{site}/error@2 = 0"
    assert alone.changes[0]["predicted"] != 0 and len(alone.controls) == 5
    with pytest.raises(UsageError, match="taken away only"):
        Change.parse(f"{site}/error@2=1")


def test_an_edit_is_stopped_before_any_pass_and_what_was_found_is_kept(passes: list[int]):
    pairs, model = examples(), agreement_model()
    change = [Change(SITES[1], active(pairs, SITES[1], 1)[0], 1)]
    expected = Editor(coders(), pairs).edit(change).to_dict()
    hooks = lambda: sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.hf.modules())  # noqa: E731
    before, editor, told = hooks(), Editor(coders(), pairs), []
    for number in (1, 2, 4):
        stop = Stop()

        def tick(done: float, of: float, number: int = number, stop: Stop = stop) -> None:
            told.append(done / of)
            stop.now = len(told) >= number

        told.clear()
        passes.clear()
        with pytest.raises(CancelledError):
            editor.edit(change, progress=tick, stop=stop)
        assert len(passes) == number and hooks() == before
    passes.clear()
    found = editor.edit(change, progress=lambda done, of: told.append(done / of)).to_dict()
    assert {name: found[name] for name in ("rows", "controls")} == {
        name: expected[name] for name in ("rows", "controls")
    }
    assert len(passes) == 6 and told[-1] == 1


@pytest.mark.parametrize("change", [Change("resid_post.1", 0), Change(SITES[0], 9999), Change(SITES[0], 0, 99)])
def test_what_is_not_there_cannot_be_edited(change: Change):
    with pytest.raises(UsageError, match="was asked for"):
        Editor(coders(), examples()).edit([change])
    with pytest.raises(UsageError, match="no change"):
        Editor(coders(), examples()).edit([])
