"""The Jacobian lens against derivatives taken by hand, its estimator, its checkpoints and its published file."""

import json
import os

import pytest
import torch
from torch import Tensor

from bathyscope import capture, run
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import StorageError, UsageError
from bathyscope.fitting import fit_jacobian_lens, jacobian_estimate, load_jacobian_lens, save_jacobian_lens
from bathyscope.fitting.jacobian_estimate import Estimate
from bathyscope.gradients import stream
from bathyscope.interventions import Add, Write
from bathyscope.mappings import Affine
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site, residual_site
from bathyscope.texts import given_texts, windows
from families import TinyFamily
from tokenizers_for_tests import PLAIN_ENGLISH

LINES = PLAIN_ENGLISH.splitlines()
LENGTH, SKIP = 12, 4


def last_of(model: Model) -> Site:
    return Site("resid_post", model.n_layers - 1)


def jacobian(lens: Affine, layer: int) -> Tensor:
    """J as it is multiplied from the left, (d_model, d_model)."""
    weight = next(term.weight for (source, _), term in lens.terms.items() if source == residual_site(layer))
    return weight.T if weight.ndim else weight


def exact(model: Model, texts: list[str], layers: list[int], n_prompts: int, **options) -> Affine:
    settings = {"length": LENGTH, "skip_first": SKIP, "directions": model.d_model, **options}
    return fit_jacobian_lens(model, given_texts(texts), layers=layers, n_prompts=n_prompts, **settings)


def pushed(model: Model, ids: tuple[int, ...], layer: int, direction: Tensor, step: float) -> Tensor:
    """The last block's change per step along a direction, summed over later positions, mean over the pushed ones."""
    places = list(range(SKIP, LENGTH - 1))
    last, ends = last_of(model), []
    for sign in (1, -1):
        writes = [
            Write(residual_site(layer), Add(direction, sign * step), place, row) for row, place in enumerate(places)
        ]
        moved = run(model, [ids] * len(places), reads=[last], writes=writes).activations[last]
        ends.append(torch.stack([rows[SKIP : LENGTH - 1].sum(0) for rows in moved]))
    return (ends[0] - ends[1]).mean(0) / (2 * step)


def test_it_is_the_derivative_of_the_last_block(model: Model, family: TinyFamily):
    # A larger step turns neurons of a ReLU on or off, or sends a token to other experts: those are no derivatives.
    step = 1e-3 if family.moe_layers else 5e-3
    lens = exact(model, LINES[:4], [-1, 1], 2)
    prompts = [window.ids for window in windows(model, given_texts(LINES[:3]), length=LENGTH, limit=2)]
    generator = torch.Generator().manual_seed(0)
    for layer in (-1, 1):
        length = capture(model, prompts[0], [residual_site(layer)])[residual_site(layer)][0][SKIP].norm()
        direction = torch.randn(model.d_model, generator=generator)
        direction *= 0.5 * length / direction.norm()
        wanted = torch.stack([pushed(model, ids, layer, direction, step) for ids in prompts]).mean(0)
        found = jacobian(lens, layer) @ direction
        assert (found - wanted).norm() <= 0.02 * wanted.norm(), layer
        assert (jacobian(lens, layer).T @ direction - wanted).norm() > 0.2 * wanted.norm(), "the wrong way round"


def test_a_gradient_is_the_same_whatever_stands_before_in_a_cache(model: Model):
    rows = [Tokens("", tuple(range(5, 21)), ()), Tokens("", tuple(range(25, 9, -1)), ())]
    for start, prompts in ((6, rows), (6, rows[:1] * 2)):
        whole = stream(model, prompts, [-1, 1])
        directions = torch.randn(3, *whole.last.shape, generator=torch.Generator().manual_seed(1))
        directions[:, :, :start] = 0
        found = stream(model, prompts, [-1, 1], start=start).pull_back(directions[:, :, start:])
        for layer, gradient in whole.pull_back(directions).items():
            assert (found[layer] - gradient[:, :, start:]).abs().max() <= 1e-5 * gradient.abs().max(), layer


def test_at_the_last_block_it_is_the_identity_and_reads_what_the_model_says(llama: Model):
    lens = exact(llama, LINES[:4], [1, 3], 2)
    assert torch.equal(jacobian(lens, 3), torch.tensor(1.0))
    told = lens.fit.held_out[f"resid_post.3>{last_of(llama)}"]
    assert told["kl"] == pytest.approx(0.0, abs=1e-6)
    assert told["precision_at_1"] == 1.0
    assert told["logit_lens_kl"] == told["kl"]


def test_the_held_out_text_is_read_as_the_lens_would(llama: Model):
    lens = exact(llama, LINES[:4], [1], 2)
    kls, hits, plain = [], [], []
    for window in windows(llama, given_texts(LINES[3:4]), length=LENGTH):
        read = run(llama, window, reads=["resid_post.1"])
        for own, state in zip(read.logits[0][SKIP:], read.activations["resid_post.1"][0][SKIP:], strict=True):
            logits = llama.unembed(jacobian(lens, 1) @ state)
            kls.append(torch.nn.functional.kl_div(logits.log_softmax(-1), own.softmax(-1), reduction="sum"))
            plain.append(
                torch.nn.functional.kl_div(llama.unembed(state).log_softmax(-1), own.softmax(-1), reduction="sum")
            )
            hits.append(float(own.argmax() == logits.argmax()))
    told = lens.fit.held_out[f"resid_post.1>{last_of(llama)}"]
    assert told["n"] == len(kls) > 10
    assert told["kl"] == pytest.approx(float(torch.stack(kls).mean()), rel=1e-4)
    assert told["logit_lens_kl"] == pytest.approx(float(torch.stack(plain).mean()), rel=1e-4)
    assert told["precision_at_1"] == pytest.approx(sum(hits) / len(hits))


def test_prompts_count_alike_and_their_last_token_not_at_all(llama: Model):
    both = jacobian(exact(llama, LINES[:4], [0], 2), 0)
    prompts = [window.ids for window in windows(llama, given_texts(LINES[:3]), length=LENGTH, limit=2)]
    alone = [estimated(llama, [ids[:-1]], bases=1) for ids in prompts]
    assert (alone[0] - alone[1]).norm() > 0.1 * both.norm()
    assert (both - (alone[0] + alone[1]) / 2).norm() <= 1e-5 * both.norm()
    # The estimate is given prompts without their last token: that it is the last is the window's doing.
    other = [[*ids[:-1], 7] for ids in prompts]
    assert torch.equal(estimated(llama, [ids[:-1] for ids in other], bases=2), estimated(llama, cut(prompts), bases=2))


def cut(prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [ids[:-1] for ids in prompts]


def estimated(model: Model, prompts: list, bases: int, seed: int = 0, layer: int = 0) -> Tensor:
    rows = [Tokens("", tuple(ids), ()) for ids in prompts]
    kept = jacobian_estimate.Checkpoint(None, {})
    return Estimate(model, (layer,), rows, SKIP, bases, seed).run(kept, None, Stop())[layer].T


def test_few_directions_are_exact_where_all_prompts_have_one_jacobian(model: Model):
    ids = tuple(range(5, 16))
    whole = estimated(model, [ids], bases=1)
    shared_out = estimated(model, [ids] * 5, bases=1, seed=3)
    assert (shared_out - whole).norm() <= 1e-5 * whole.norm()
    assert estimated(model, [ids] * 5, bases=2).sub(whole).norm() <= 1e-5 * whole.norm()


def test_few_directions_are_right_on_average(llama: Model):
    prompts = [tuple(range(5, 16)), tuple(range(40, 29, -1)), tuple(range(60, 71))]
    whole = estimated(llama, prompts, bases=3, layer=2)
    found = torch.stack([estimated(llama, prompts, bases=1, seed=seed, layer=2) for seed in range(36)])
    off = float((found - whole).flatten(1).norm(dim=1).mean())
    assert off > 0.1 * whole.norm(), "one basis must not be the whole answer already"
    # Independent errors shrink with the root of their number, to 1/6; a bias would stay.
    assert (found.mean(0) - whole).norm() <= 0.25 * off


def test_a_fit_that_was_stopped_goes_on_and_gives_the_same(llama: Model, tmp_path, monkeypatch):
    monkeypatch.setattr(jacobian_estimate, "ROWS", 2)
    options = {"directions": 8, "layers": [0, 2], "n_prompts": 6}
    whole = fit_jacobian_lens(llama, given_texts(LINES), length=LENGTH, skip_first=SKIP, **options)
    stop, path, told = Stop(), tmp_path / "fit.safetensors", []

    def interrupt(done: int, total: int) -> None:
        stop.now = done > total / 2

    again = {"length": LENGTH, "skip_first": SKIP, "checkpoint": path, **options}
    with pytest.raises(CancelledError):
        fit_jacobian_lens(llama, given_texts(LINES), progress=interrupt, stop=stop, **again)
    resumed = fit_jacobian_lens(llama, given_texts(LINES), progress=lambda n, _: told.append(n), **again)
    assert resumed == whole
    assert told[0] > told[-1] / 3, "finished prompts were run again"
    assert fit_jacobian_lens(llama, given_texts(LINES), **again) == whole
    with pytest.raises(UsageError, match="other seed"):
        fit_jacobian_lens(llama, given_texts(LINES), seed=1, **again)
    with pytest.raises(UsageError, match="other texts"):
        fit_jacobian_lens(llama, given_texts(LINES[1:]), **again)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match="could not be read as a checkpoint"):
        fit_jacobian_lens(llama, given_texts(LINES), **again)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 5}, "at least 6 tokens"),
        ({"length": 100}, "makes no window"),
        ({"layers": []}, "at least one layer"),
        ({"layers": [9]}, "layer 9 does not exist"),
        ({"skip_first": 0}, "is a sink"),
        ({"n_prompts": 0}, "at least one prompt"),
    ],
)
def test_what_cannot_be_fitted_is_refused(llama: Model, options, said):
    settings = {"length": LENGTH, "skip_first": SKIP, "layers": [1], "n_prompts": 2, **options}
    with pytest.raises(UsageError, match=said):
        fit_jacobian_lens(llama, given_texts(LINES[:4]), **settings)


def test_the_published_file_is_written_and_read(llama: Model, tmp_path):
    lens = exact(llama, LINES[:4], [-1, 0, 2, 3], 2)
    path = save_jacobian_lens(lens, tmp_path / "lens.pt")
    content = torch.load(path, weights_only=True)
    assert (content["source_layers"], content["d_model"], content["n_prompts"]) == ([0, 2], llama.d_model, 2)
    assert {matrix.dtype for matrix in content["J"].values()} == {torch.float16}
    assert torch.equal(content["J"][2], jacobian(lens, 2).half())
    found = load_jacobian_lens(path, llama)
    assert [str(source) for source, _ in found.terms] == ["resid_post.0", "resid_post.2", "resid_post.3"]
    assert torch.equal(jacobian(found, 2), jacobian(lens, 2).half().float())
    found.check(llama, llama, set(found.terms))
    finer = save_jacobian_lens(lens, tmp_path / "fine.pt", dtype=torch.float32)
    assert torch.equal(jacobian(load_jacobian_lens(finer, llama), 0), jacobian(lens, 0))


class Code:
    """A pickle that does something when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_with_code_in_it_is_not_run(llama: Model, tmp_path):
    torch.save({"J": {0: torch.eye(llama.d_model)}, "source_layers": Code(tmp_path / "ran")}, tmp_path / "lens.pt")
    with pytest.raises(StorageError, match="one with anything else in it is not opened"):
        load_jacobian_lens(tmp_path / "lens.pt", llama)
    assert not (tmp_path / "ran").exists()


def content(width: int = 48, **changes) -> dict:
    published = {"J": {0: torch.eye(width), 1: torch.eye(width)}, "source_layers": [0, 1], "d_model": width}
    return {**published, "n_prompts": 3, **changes}


@pytest.mark.parametrize(
    ("held", "kind", "said"),
    [
        (content(40), UsageError, "lens of width 40"),
        (content(J={3: torch.eye(48)}, source_layers=[3]), UsageError, "has layers 3 to 3"),
        (content(J={-1: torch.eye(48)}, source_layers=[-1]), UsageError, "has layers -1 to -1"),
        (content(source_layers=[0]), StorageError, "lists other layers"),
        (content(J={0: torch.eye(40)}, source_layers=[0]), StorageError, "at layer 0"),
        (content(J={0: torch.eye(48) * float("nan")}, source_layers=[0]), StorageError, "at layer 0"),
        (content(J={"0": torch.eye(48)}), StorageError, "at layer '0'"),
        (content(J={}), StorageError, "no matrices"),
        ({"jacobian_sum": {}, "n_done": 4}, StorageError, "no J, source_layers, d_model; it has jacobian_sum, n_done"),
        ([1, 2], StorageError, "it has list"),
    ],
)
def test_another_file_is_refused(llama: Model, tmp_path, held, kind, said):
    torch.save(held, tmp_path / "lens.pt")
    with pytest.raises(kind, match=said):
        load_jacobian_lens(tmp_path / "lens.pt", llama)


def test_a_file_that_is_missing_or_no_file_of_torch_is_refused(llama: Model, tmp_path):
    for bytes_ in (None, b"", json.dumps({"J": 1}).encode(), b"PK\x03\x04 cut off"):
        path = tmp_path / "lens.pt"
        if bytes_ is not None:
            path.write_bytes(bytes_)
        with pytest.raises(StorageError, match="could not be read"):
            load_jacobian_lens(path, llama)


def test_only_a_jacobian_lens_that_the_format_can_hold_is_written(llama: Model, tmp_path):
    lens = exact(llama, LINES[:4], [3], 2)
    with pytest.raises(UsageError, match="without a block below the last"):
        save_jacobian_lens(lens, tmp_path / "lens.pt")
    large = exact(llama, LINES[:4], [0], 2)
    (term,) = large.terms.values()
    term.weight.mul_(1e6)
    with pytest.raises(UsageError, match="float16 cannot hold"):
        save_jacobian_lens(large, tmp_path / "lens.pt")
    other = Affine(large.terms, type(large.fit)("ridge", {}, {}))
    with pytest.raises(UsageError, match="a ridge was given"):
        save_jacobian_lens(other, tmp_path / "lens.pt")
