"""The comparison of sparse coders: that its one measure of quality is right, and its verdicts. No peer runs."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bathyscope.sae import Code

BENCH = Path(__file__).parents[1] / "bench"
ROWS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
"""Mean (1, 1), squared distances from it 8 in all."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("sae_quality")


def code(indices: list[list[int]], values: list[list[float]]) -> Code:
    return Code(torch.tensor(indices), torch.tensor(values), n_latents=5)


HELD_OUT = code([[0, 1], [0, 1], [0, 2], [0, 2]], [[1.0, 2.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
RECENT = code([[3, 1], [0, 4]], [[0.5, 0.0], [1.0, 0.0]])


def test_quality_of_a_worked_example(bench: ModuleType):
    made = ROWS + torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    found = bench.quality(ROWS, made, HELD_OUT, RECENT)
    # 2 of 8 are left. Latents 0 and 1 are active in held-out rows, 3 in a recent one; 2 and 4 are met as values 0 only.
    assert (found.fvu, found.l0, found.dead) == (0.25, 1.25, 2)


def test_the_mean_explains_nothing_and_the_rows_all(bench: ModuleType):
    mean = ROWS.mean(0).expand_as(ROWS)
    assert bench.quality(ROWS, mean, HELD_OUT, RECENT).fvu == 1
    assert bench.quality(ROWS, ROWS, HELD_OUT, RECENT).fvu == 0
    assert bench.quality(ROWS, torch.zeros_like(ROWS), HELD_OUT, RECENT).fvu == 2  # worse than the mean


def test_quality_is_of_the_whole_set_and_not_of_batches(bench: ModuleType, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    # Sorted, so that a mean of each batch would take most of the variance away; far from 0,
    # where float32 has few digits.
    rows = torch.randn(500, 3, generator=generator).sort(0).values * 2 + 1e4
    made = rows + torch.randn(500, 3, generator=generator)
    whole = Code(torch.zeros(500, 1, dtype=torch.long), torch.ones(500, 1), 5)
    wanted = float(
        (rows.double() - made.double()).square().sum() / (rows.double() - rows.double().mean(0)).square().sum()
    )
    for together in (1, 7, 500):
        monkeypatch.setattr(bench, "ROWS", together)
        assert bench.quality(rows, made, whole, whole).fvu == pytest.approx(wanted, rel=1e-9)


def test_scale_and_offset_change_nothing(bench: ModuleType):
    made = ROWS + torch.tensor([1.0, 0.5])
    moved = bench.quality(ROWS * 4 + 8, made * 4 + 8, HELD_OUT, RECENT)
    assert moved == bench.quality(ROWS, made, HELD_OUT, RECENT)


def test_what_cannot_be_measured_is_refused(bench: ModuleType):
    with pytest.raises(ValueError, match="not finite"):
        bench.quality(ROWS, ROWS / 0, HELD_OUT, RECENT)
    with pytest.raises(ValueError, match="3 codes"):
        bench.quality(ROWS, ROWS, Code(HELD_OUT.indices[:3], HELD_OUT.values[:3], 5), RECENT)
    with pytest.raises(ValueError, match="5 and 6 latents"):
        bench.quality(ROWS, ROWS, HELD_OUT, Code(RECENT.indices, RECENT.values, 6))


def test_promises_compare_speed_by_round_and_quality_by_the_best_round(bench: ModuleType):
    report = importlib.import_module("sae_report")
    ours = report.Measured("ours", rates=[10.0, 30.0, 60.0], qualities=[bench.Quality(0.2, 32, 3)] * 3)
    qualities = [bench.Quality(one, 32, 2) for one in (0.5, 0.19, 0.3)]
    theirs = report.Measured("theirs", 5, rates=[2.0, 5.0, 15.0], qualities=qualities)
    times, fvu, dead = report.checks(ours, [theirs])
    assert (times.value, times.verdict(quick=False)) == (5, "met")  # 5, 6 and 4 times
    assert (fvu.value, fvu.verdict(quick=False)) == (pytest.approx(0.2 / 0.19), "MISSED")
    assert (dead.value, dead.verdict(quick=False)) == (1, "MISSED")
    assert report.checks(None, [theirs])[0].verdict(quick=False) == "not measured"


def test_batches_show_every_row_once_an_epoch_in_an_order_of_the_seed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCH / "sae_peers")
    batches_of = importlib.import_module("sharing").Batches
    rows = torch.arange(10.0)[:, None]
    one, same, other = (batches_of(rows, 5, seed) for seed in (0, 0, 1))
    epochs = [torch.cat([next(one), next(one)])[:, 0] for _ in range(2)]
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert torch.cat([next(same), next(same)])[:, 0].tolist() == epochs[0].tolist()
    assert torch.cat([next(other), next(other)])[:, 0].tolist() != epochs[0].tolist()
    clocked = one.clocked(warm_up=1)
    assert clocked.tokens == 15
    assert clocked.processor_seconds > 0
    assert clocked.rate == pytest.approx(15 / clocked.seconds)


def test_made_up_activations_are_what_they_are_said_to_be(bench: ModuleType, tmp_path: Path):
    activations = importlib.import_module("sae_activations")
    told = activations.made_up(300, 8, tmp_path / "rows.safetensors", directions=4, active=2)
    assert (told["kind"], told["train"], told["held_out"]) == ("made up", [300, 8], [30, 8])
    from safetensors.torch import load_file

    rows = load_file(tmp_path / "rows.safetensors")["train"]
    # Four directions about a mean: what is left beside them is the noise, of deviation 0.02.
    sizes = torch.linalg.svdvals(rows.double() - rows.double().mean(0)) / 300**0.5
    assert sizes[3] > 0.1
    assert sizes[4:] == pytest.approx(torch.full((4,), 0.02, dtype=torch.float64), rel=0.2)
