"""What coders learn from: the same activations whether given, kept or streamed, and nothing lost when it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import bathyscope
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import StorageError, UsageError
from bathyscope.fitting import usable
from bathyscope.model import Model
from bathyscope.sae import (
    CoderConfig,
    Reader,
    Settings,
    StreamedActivations,
    TopK,
    WeightedTexts,
    cache_activations,
    train_coders,
)
from bathyscope.sae.training import reader, stream, trainer
from bathyscope.sae.training.learner import Learner
from bathyscope.sites import Site
from bathyscope.texts import given_texts, windows

MID, LATE = Site("resid_mid", 1), Site("resid_post", 2)
DOCUMENTS = [
    f"The boats that {word} lay in the harbour were old and it was late in the year." * 3 for word in "abcdefg"
]


def reader_of(model: Model, *sites: Site, weight: float = 1.0) -> Reader:
    return Reader(model, sites or (LATE,), (WeightedTexts(given_texts(DOCUMENTS), weight),), length=8)


def plain_rows(model: Model, site: Site) -> torch.Tensor:
    """Window by window, the slow way."""
    found = []
    special = set(model.tokenizer.all_special_ids)
    for window in windows(model, given_texts(DOCUMENTS), length=8):
        read = bathyscope.capture(model, window, [site, f"resid_post.{site.layer}"])
        keep = usable(read[f"resid_post.{site.layer}"][0])
        keep &= torch.tensor([token not in special for token in window.ids])
        found.append(read[site][0].flatten(1)[keep])
    return torch.cat(found)


def as_set(rows: torch.Tensor) -> torch.Tensor:
    """Rows in an order that does not depend on how they came."""
    return rows[torch.argsort((rows.double() * torch.arange(1, rows.shape[1] + 1)).sum(1))]


@pytest.mark.parametrize("site", [LATE, Site("z", 1), Site("mlp_out", 0)], ids=str)
def test_what_is_kept_is_what_a_plain_pass_reads(llama: Model, tmp_path: Path, site: Site) -> None:
    kept = cache_activations(reader_of(llama, site), tmp_path / "kept")
    (portion,) = kept.portions(1, seed=0)
    wanted = plain_rows(llama, site)
    assert portion.tables[site].shape == wanted.shape
    assert torch.allclose(portion.tables[site], wanted, atol=1e-5)
    assert sorted(portion.rows.tolist()) == list(range(len(wanted)))


def test_a_stream_has_the_rows_of_the_cache(llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WINDOWS", 7)
    reader = reader_of(llama, MID, LATE)
    kept = cache_activations(reader, tmp_path / "kept")
    streamed = StreamedActivations(reader)
    portions = list(streamed.portions(1, seed=3))
    assert len(portions) == streamed.n_portions(1) > 2
    for site in (MID, LATE):
        rows = torch.cat([portion.tables[site] for portion in portions])
        (table,) = [portion.tables[site] for portion in kept.portions(1, seed=0)]
        assert torch.allclose(as_set(rows), as_set(table), atol=1e-5)
        mean, length = table.mean(0), float((table - table.mean(0)).square().sum(1).mean()) ** 0.5
        assert torch.allclose(kept.scaling(site).mean, mean, atol=1e-4)
        assert kept.scaling(site).length == pytest.approx(length, rel=1e-4)
    again = [portion.tables[LATE] for portion in streamed.portions(1, seed=3, first=2)]
    assert torch.equal(again[0], portions[2].tables[LATE]), "a resumed stream goes on with the same rows"


def test_sites_of_one_pass_belong_to_the_same_tokens(llama: Model, tmp_path: Path) -> None:
    (both,) = cache_activations(reader_of(llama, MID, LATE), tmp_path / "both").portions(1, 0)
    assert len(both.tables[MID]) == len(both.tables[LATE])
    for rows in both.batches(16, seed=0):
        place = (both.tables[MID] == rows[MID][0]).all(1).nonzero()[0]
        assert torch.equal(both.tables[LATE][place].squeeze(0), rows[LATE][0])


def test_the_model_is_stopped_at_the_last_site(llama: Model) -> None:
    called = []
    handle = llama.blocks[3].register_forward_hook(lambda *_: called.append(1))
    try:
        list(reader_of(llama, MID, LATE).read(reader_of(llama).portions[0][1][:2]))
    finally:
        handle.remove()
    assert llama.n_layers > 3 and not called


@pytest.mark.parametrize("weight", [0.25, 1.0, 2.5])
def test_a_weight_is_how_often_a_text_is_gone_through(llama: Model, tmp_path: Path, weight: float) -> None:
    first = given_texts(DOCUMENTS[:3])
    texts = (WeightedTexts(first), WeightedTexts(given_texts(DOCUMENTS[3:]), weight))
    kept = cache_activations(Reader(llama, (LATE,), texts, length=8), tmp_path / "kept")
    alone = cache_activations(Reader(llama, (LATE,), texts[:1], length=8), tmp_path / "alone").n_tokens
    (portion,) = kept.portions(1, seed=0)
    counts = torch.bincount(portion.rows, minlength=len(portion.tables[LATE]))
    assert bool((counts[:alone] == 1).all())
    assert float(counts[alone:].float().mean()) == pytest.approx(weight, abs=0.02)
    assert kept.n_tokens == len(portion.rows)


def test_reading_that_was_stopped_goes_on(llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PORTION", 32)
    whole = cache_activations(reader_of(llama), tmp_path / "whole")
    stop, read = Stop(), []

    def tick(done: int, _total: int) -> None:
        read.append(done)
        stop.soon = len(read) == 3

    with pytest.raises(CancelledError, match="goes on"):
        cache_activations(reader_of(llama), tmp_path / "kept", progress=tick, stop=stop)
    # Half a portion more, as a machine that loses its power leaves it.
    with (tmp_path / "kept" / f"{LATE}.bin").open("ab") as file:
        file.write(b"half of it")
    read.clear()
    kept = cache_activations(reader_of(llama), tmp_path / "kept", progress=lambda done, _: read.append(done))
    assert read[0] > 0, "it began anew"
    assert kept.spec() == whole.spec()
    (one,), (other,) = kept.portions(1, 0), whole.portions(1, 0)
    assert torch.equal(one.tables[LATE], other.tables[LATE])


def test_bfloat16_takes_half_the_room_and_rounds(llama: Model, tmp_path: Path) -> None:
    (full,) = cache_activations(reader_of(llama), tmp_path / "full").portions(1, 0)
    (half,) = cache_activations(reader_of(llama), tmp_path / "half", dtype="bfloat16").portions(1, 0)
    sizes = [(tmp_path / name / f"{LATE}.bin").stat().st_size for name in ("full", "half")]
    assert sizes[0] == 2 * sizes[1]
    assert torch.equal(half.tables[LATE], full.tables[LATE].bfloat16())


def test_a_cache_that_is_too_large_is_refused_before_anything_is_read(llama: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GiB"):
        cache_activations(reader_of(llama), tmp_path / "kept", most_bytes=1000)
    assert not (tmp_path / "kept").exists()


def test_a_cache_of_something_else_is_refused(llama: Model, gpt2: Model, tmp_path: Path) -> None:
    cache_activations(reader_of(llama), tmp_path / "kept")
    with pytest.raises(UsageError, match="other model"):
        cache_activations(reader_of(gpt2), tmp_path / "kept")
    with pytest.raises(UsageError, match="other sites"):
        cache_activations(reader_of(llama, MID), tmp_path / "kept")


def test_a_damaged_cache_is_told(llama: Model, tmp_path: Path) -> None:
    cache_activations(reader_of(llama), tmp_path / "kept")
    path = tmp_path / "kept" / f"{LATE}.bin"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        cache_activations(reader_of(llama), tmp_path / "kept")
    (tmp_path / "kept" / "index.json").write_text('{"format": 1')
    with pytest.raises(StorageError, match="could not be read"):
        cache_activations(reader_of(llama), tmp_path / "kept")


def test_activations_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    from families import ALL
    from tokenizers_for_tests import tiny_tokenizer

    broken = bathyscope.wrap(ALL["llama"].build("eager"), tiny_tokenizer(), name="broken")
    norm = next(module for name, module in broken.blocks[2].named_modules() if "norm" in name)
    nn.init.constant_(norm.weight, float("nan"))
    with pytest.raises(UsageError, match="not finite"):
        cache_activations(reader_of(broken), tmp_path / "kept")


@pytest.mark.parametrize(
    ("sites", "message"), [((Site("logits"),), "apart"), ((Site("resid_post", 99),), "99"), ((), "at least one")]
)
def test_sites_that_no_coder_is_for_are_refused(llama: Model, sites: tuple[Site, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Reader(llama, sites, (WeightedTexts(given_texts(DOCUMENTS)),), length=8)


KILLED = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from conftest import tiny_model
from bathyscope.sae.training import reader, trainer
from bathyscope.sae import *
from bathyscope.sites import Site
from test_sae_activations import DOCUMENTS, LATE, reader_of
reader.PORTION, trainer.KEPT_EVERY = 32, 0.02
kept = cache_activations(reader_of(tiny_model()), sys.argv[1] + "/kept", progress=lambda *_: print("read", flush=True))
tell = lambda done, _: print("step", done, flush=True)
asked, settings = [CoderConfig(LATE, TopK(2), 64)], Settings(60, 16, half=False)
trained, = train_coders(kept, asked, settings, checkpoint=sys.argv[1] + "/checkpoint", progress=tell)
print(trained.coder.fingerprint)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_28_killed_twenty_times_it_gives_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL while activations are read, and while coders learn."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "whole"), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    lines = whole.split()
    command[3] = str(tmp_path / "killed")
    killed = 0
    for attempt in range(20):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for number, line in enumerate(process.stdout):
                if ("read" in line and attempt < 6 and number > attempt % 3) or ("step" in line and number > 30):
                    time.sleep(0.003 * attempt)
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                    break
    assert killed == 20, "nothing was killed: the training is too short"
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    assert again.split()[-1] == lines[-1]


def test_training_from_a_stream_is_resumed_to_the_bit(
    llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOWS", 7)
    asked, settings = [CoderConfig(LATE, TopK(2), 32)], Settings(2, 16, half=False)
    (whole,) = train_coders(StreamedActivations(reader_of(llama)), asked, settings)
    for last in (0, 2, 9, 13):  # the third is in a portion that began with rows of the one before
        stop, kept = Stop(soon=not last), tmp_path / str(last)

        def tick(done: int, _total: int, stop: Stop = stop, last: int = last) -> None:
            stop.soon = done == last

        activations = StreamedActivations(reader_of(llama))
        with pytest.raises(CancelledError):
            train_coders(activations, asked, settings, checkpoint=kept, progress=tick, stop=stop)
        (again,) = train_coders(StreamedActivations(reader_of(llama)), asked, settings, checkpoint=kept)
        assert again.coder.fingerprint == whole.coder.fingerprint


class Course(Learner):
    """A learner that notes what of the training each step ended."""

    shares: ClassVar[list[float]] = []

    def learn(self, x: torch.Tensor, y: torch.Tensor, share: float) -> None:
        self.shares.append(share)
        super().learn(x, y, share)


@pytest.mark.parametrize("together", [512, 50, 7])
def test_a_stream_goes_the_course_of_a_cache(
    llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """As many steps, whose shares rise evenly to exactly 1, however the windows are cut into portions."""
    monkeypatch.setattr(stream, "WINDOWS", together)
    monkeypatch.setattr(trainer, "Learner", Course)
    reader = reader_of(llama)
    asked, settings = [CoderConfig(LATE, TopK(2), 32)], Settings(3, 10, half=False)
    courses = []
    for activations in (cache_activations(reader, tmp_path / "kept"), StreamedActivations(reader)):
        Course.shares, told = [], []
        train_coders(activations, asked, settings, progress=lambda *one, told=told: told.append(one))
        assert Course.shares[-1] == 1 and told[-1] == (len(told), len(told))
        even = torch.arange(1, len(told) + 1) / len(told)
        # A portion has a batch more or less than its share of all, and few of them here.
        assert (torch.tensor(Course.shares) - even).abs().max() < 2 / len(told)
        assert bool((torch.tensor(Course.shares).diff() > 0).all())
        courses.append(Course.shares)
    assert len(courses[0]) == len(courses[1]) > 100


def test_a_window_more_than_a_portion_makes_two_of_a_size(
    llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_windows = len([one for one in windows(llama, given_texts(DOCUMENTS), length=8)])
    monkeypatch.setattr(stream, "WINDOWS", n_windows - 1)
    sizes = [len(one.rows) for one in StreamedActivations(reader_of(llama)).portions(1, 0)]
    assert len(sizes) == 2 and min(sizes) > 0.8 * max(sizes)


def test_what_a_portion_leaves_over_the_next_begins_with(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row comes twice in an epoch, and fewer than a batch are left out of it."""
    monkeypatch.setattr(stream, "WINDOWS", 7)
    carried, seen, everything = {}, [], []
    for plain in StreamedActivations(reader_of(llama)).portions(1, 0):
        portion = replace(plain, carried=carried)
        seen += [rows[LATE] for rows in portion.batches(30, 0)]
        carried = portion.left(30, 0)
        everything.append(plain.tables[LATE])
    assert not carried and {len(one) for one in seen} == {30}
    rows, known = torch.cat(seen), torch.cat(everything)
    assert len(rows) == len(known) // 30 * 30
    times = (rows[:, None] == known[None]).all(2)
    assert bool((times.sum(0) <= (known[:, None] == known[None]).all(2).sum(0)).all()), "a row came too often"


def test_a_short_stream_is_learned_from(llama: Model) -> None:
    """Its tokens are fewer than a batch, and some of them are sinks: one step an epoch, of all there is."""
    activations = StreamedActivations(reader_of(llama))
    (portion,) = activations.portions(1, 0)
    assert len(portion.rows) < activations.n_tokens
    (trained,) = train_coders(activations, [CoderConfig(LATE, TopK(2), 32)], Settings(4, activations.n_tokens))
    assert trained.history and trained.coder.training["n_tokens"] == 4 * len(portion.rows)


def test_a_stream_of_nothing_is_refused(llama: Model) -> None:
    texts = (WeightedTexts(given_texts(DOCUMENTS[:1]), 0.001),)
    with pytest.raises(UsageError, match="no window"):
        train_coders(
            StreamedActivations(Reader(llama, (LATE,), texts, length=8)), [CoderConfig(LATE, TopK(2), 32)], Settings(1)
        )


def test_a_coder_says_what_it_was_trained_on(llama: Model, tmp_path: Path) -> None:
    kept = cache_activations(reader_of(llama), tmp_path / "kept")
    (trained,) = train_coders(kept, [CoderConfig(LATE, TopK(2), 32)], Settings(1, 16))
    assert trained.coder.check(llama) == (LATE, LATE)
    assert trained.coder.training["sparsity"] == "topk"
    assert trained.coder.training["activations"]["length"] == 8
    json.dumps(dict(trained.coder.training))
