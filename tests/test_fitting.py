"""Fits: each is what theory says of it, and what a slow reference makes of activations that were kept."""

import random
import warnings

import pytest
import torch
from torch import Tensor

from bathyscope import capture, wrap
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeWarning, SiteError, UsageError
from bathyscope.fitting import collecting, fit_affine, usable
from bathyscope.fitting.collecting import Reader
from bathyscope.fitting.methods import (
    METHODS,
    RIDGES,
    best_ridge,
    least_squares,
    linear,
    mean_shift,
    procrustes,
    ridge_errors,
    ridge_regression,
    scalar_affine,
)
from bathyscope.fitting.moments import Moments
from bathyscope.mappings import Affine, Term
from bathyscope.model import Model
from bathyscope.sites import Site, residual_site
from bathyscope.texts import Texts, aligned_windows, given_texts, split_texts, windows
from conftest import tiny_model
from families import ALL, D_MLP, D_MODEL
from tokenizers_for_tests import PLAIN_ENGLISH, sentencepiece_like_tokenizer, tiny_tokenizer

LENGTH = 40
PAIRS = [(residual_site(layer), residual_site(3)) for layer in (-1, 1, 3)]


def written(n_documents: int = 40, n_words: int = 20, seed: int = 0) -> Texts:
    """Documents of English words in any order."""
    draw, words = random.Random(seed), PLAIN_ENGLISH.split()
    return given_texts([" ".join(draw.choices(words, k=n_words)) for _ in range(n_documents)])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=seed))[0]


def moments_of(x: Tensor, y: Tensor, size: int | None = None) -> Moments:
    found = Moments.empty(x.shape[1], y.shape[1])
    for first in range(0, len(x), size or len(x)):
        found.add(x[first : first + (size or len(x))], y[first : first + (size or len(x))])
    return found


def related(n: int = 200, source: int = 7, target: int = 7, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Pairs that are related, but not linearly alone, of unequal spread and far from zero."""
    x = normal(n, source) @ normal(source, source, seed=1) + 5 * normal(source, seed=2)
    y = x @ normal(source, target, seed=3) + noise * normal(n, target, seed=4) + 3 * normal(target, seed=5)
    return x, y


def distance(x: Tensor, y: Tensor, term: Term) -> float:
    return float((y - term.apply(x)).square().sum())


def quiet_fit(source: Model, target: Model, texts: Texts, **options) -> Affine:
    """A fit on text that is too short for its width, which is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BathyscopeWarning)
        return fit_affine(source, target, texts, **{"length": LENGTH, "pairs": PAIRS} | options)


# Sinks


def test_the_first_position_and_long_ones_are_left_out():
    residual = torch.nn.functional.normalize(normal(20, 6), dim=1)
    residual[0] *= 300
    residual[7] *= 10.5
    residual[8] *= 9.5
    assert usable(residual).nonzero().flatten().tolist() == [p for p in range(1, 20) if p != 7]
    assert usable(residual * 1e-3).equal(usable(residual))


def test_norms_that_overflow_half_precision_are_no_sinks():
    residual = torch.full((5, 4096), 2000.0, dtype=torch.float16)
    assert residual.norm(dim=-1).isinf().all()
    assert usable(residual).tolist() == [False, True, True, True, True]


# Moments


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_moments_of_a_stream_in_any_blocks_are_those_of_the_whole(size: int):
    x, y = related(n=201)
    x += 1e4
    found = moments_of(x, y, size)
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    assert found.n == 201
    for one, wanted in (
        (found.mean_x, x.mean(0)),
        (found.mean_y, y.mean(0)),
        (found.xx, centred_x.T @ centred_x),
        (found.xy, centred_x.T @ centred_y),
        (found.yy, centred_y.square().sum(0)),
    ):
        torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


def test_moments_merge():
    x, y = related(n=120)
    merged, empty = moments_of(x[:50], y[:50]), Moments.empty(7, 7)
    merged.merge(moments_of(x[50:], y[50:]))
    merged.merge(empty)
    empty.merge(merged)
    whole = moments_of(x, y)
    for found in (merged, empty):
        assert found.n == 120
        for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
            torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-12, atol=1e-9)


def test_columns_are_the_moments_of_one_target_and_share_the_factorisation():
    x, y = related(target=9)
    found, alone = moments_of(x, y).columns(3, 8), moments_of(x, y[:, 3:8])
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(found, name), getattr(alone, name))
    whole = moments_of(x, y)
    assert whole.columns(0, 4).gram.eigen()[1] is whole.columns(4, 9).gram.eigen()[1]


def test_a_factorisation_is_made_anew_when_more_pairs_come():
    x, y = related()
    found = moments_of(x[:100], y[:100])
    first = least_squares(found)
    found.add(x[100:], y[100:])
    assert not torch.allclose(least_squares(found).weight, first.weight)
    torch.testing.assert_close(least_squares(found).weight, least_squares(moments_of(x, y)).weight)


def test_an_error_is_the_squared_distance():
    x, y = related()
    moments = moments_of(x, y, 32)
    matrix, bias, factor = normal(7, 7, seed=6), normal(7, seed=7), torch.tensor(0.7, dtype=torch.float64)
    for term in (Term(matrix), Term(matrix, bias), Term(factor), Term(factor, bias), Term(torch.tensor(1.0))):
        assert moments.error(term) == pytest.approx(distance(x, y, term), rel=1e-10)


def test_what_cannot_be_paired_is_refused():
    moments = Moments.empty(3, 2)
    for x, y in ((normal(4, 3), normal(5, 2)), (normal(4, 2), normal(4, 2)), (normal(4, 3), normal(4, 1))):
        with pytest.raises(UsageError, match="of widths 3 and 2"):
            moments.add(x, y)
    with pytest.raises(UsageError, match="not finite"):
        moments.add(normal(4, 3), torch.full((4, 2), torch.inf))
    assert moments.n == 0


# Methods


def test_what_a_map_made_is_recovered_by_every_method_that_has_such_a_map():
    x, bias = related()[0], normal(7, seed=8)
    matrix, turn = normal(7, 7, seed=9), orthogonal(7, seed=9)
    made = {
        least_squares: (matrix, bias),
        linear: (matrix, None),
        procrustes: (turn, bias),
        scalar_affine: (torch.tensor(-2.5, dtype=torch.float64), bias),
        mean_shift: (torch.tensor(1.0, dtype=torch.float64), bias),
    }
    for method, (weight, shift) in made.items():
        found = method(moments_of(x, Term(weight, shift).apply(x)))
        torch.testing.assert_close(found.weight, weight, rtol=1e-9, atol=1e-9)
        if shift is not None:
            torch.testing.assert_close(found.bias, shift, rtol=1e-8, atol=1e-8)
    assert linear(moments_of(x, x)).bias is None


def test_normal_equations():
    x, y = related()
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    affine, shortcut = least_squares(moments_of(x, y)), linear(moments_of(x, y))
    scale = float((x.T @ y).abs().max())
    assert (ones.T @ (y - affine.apply(x))).abs().max() < 1e-10 * scale
    assert (x.T @ (y - shortcut.apply(x))).abs().max() < 1e-10 * scale
    assert (x.sum(0) @ (y - shortcut.apply(x)).sum(0)).abs() > 1e-3, "without a bias the mean is not met"


@pytest.mark.parametrize("strength", [1e-3, 0.3])
def test_ridge_is_least_squares_with_the_penalty_as_more_rows(strength: float):
    x, y = related(target=5)
    centred = x - x.mean(0)
    penalty = (strength * centred.square().sum() / 7) ** 0.5 * torch.eye(7, dtype=x.dtype)
    rows = torch.cat([centred, penalty]), torch.cat([y - y.mean(0), torch.zeros(7, 5, dtype=x.dtype)])
    found = ridge_regression(moments_of(x, y), strength)
    torch.testing.assert_close(found.weight, torch.linalg.lstsq(*rows).solution, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.apply(x.mean(0)), y.mean(0))


def test_ridge_becomes_least_squares_as_the_penalty_vanishes():
    moments = moments_of(*related())
    wanted = least_squares(moments).weight
    off = [float((ridge_regression(moments, 10.0**-power).weight - wanted).norm()) for power in range(0, 13, 3)]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-8 * float(wanted.norm()) < 1e-3 * off[0]


def test_the_errors_of_all_strengths_are_those_of_their_fits_and_the_best_is_chosen():
    x, y = related(n=60, source=20, target=5, noise=20.0)
    fitted, unseen = moments_of(x[:25], y[:25]), moments_of(x[25:], y[25:])
    errors = ridge_errors(fitted, unseen, RIDGES)
    wanted = [distance(x[25:], y[25:], ridge_regression(fitted, strength)) for strength in RIDGES]
    assert errors == pytest.approx(wanted, rel=1e-8)
    best = best_ridge(fitted, unseen)
    assert RIDGES[0] < best < RIDGES[-1], "noise as loud as this asks for a penalty, but not for the largest"
    assert best == RIDGES[wanted.index(min(wanted))]


@pytest.mark.parametrize("method", [least_squares, linear], ids=lambda method: method.__name__)
def test_where_x_leaves_a_choice_the_shortest_map_is_taken(method):
    x = normal(200, 3) @ normal(3, 7, seed=1)
    y = x @ normal(7, 4, seed=2) + 0.1 * normal(200, 4, seed=3)
    if method is least_squares:
        x, y = x - x.mean(0), y - y.mean(0)
    wanted = torch.linalg.pinv(x, rtol=1e-10) @ y
    torch.testing.assert_close(method(moments_of(x, y)).weight, wanted, rtol=1e-7, atol=1e-9)
    # Fewer pairs than numbers: what was fitted is repeated by heart.
    few = moments_of(*related(n=5))
    assert few.error(method(few)) < 1e-12 * few.variation


@pytest.mark.parametrize(("dtype", "distance"), [(torch.float32, 3000), (torch.bfloat16, 30)])
def test_a_direction_of_rounding_alone_is_left_out(dtype: torch.dtype, distance: float):
    # Far from zero, as residual streams are, so that rounding is large beside what varies.
    plane = normal(2000, 3) @ normal(3, 7, seed=1) + distance * normal(7, seed=2)
    x = plane.to(dtype)
    values = moments_of(x, x).gram.eigen()[0]
    rounding = torch.linalg.eigvalsh((x.double() - x.double().mean(0)).T @ (x.double() - x.double().mean(0)))[:4]
    assert (rounding > 1e-12 * values.max()).all(), "far more than a factorisation in float64 leaves by itself"
    assert (values > 0).tolist() == [False] * 4 + [True] * 3
    y = plane @ normal(7, 4, seed=3) + 0.1 * normal(2000, 4, seed=4)
    assert least_squares(moments_of(x, y)).weight.norm() < 2 * normal(7, 4, seed=3).norm()


def test_an_orthogonal_map_is_orthogonal_and_none_near_it_is_better():
    x, y = related()
    found = procrustes(moments_of(x, y))
    eye = torch.eye(7, dtype=x.dtype)
    torch.testing.assert_close(found.weight.T @ found.weight, eye, rtol=0, atol=1e-12)
    for seed in range(20):
        step = normal(7, 7, seed=seed)
        nearby = found.weight @ torch.linalg.matrix_exp(0.01 * (step - step.T))
        assert distance(x, y, Term(nearby, y.mean(0) - x.mean(0) @ nearby)) > distance(x, y, found)


def test_between_widths_an_orthogonal_map_keeps_lengths_one_way():
    for source, target in ((4, 9), (9, 4)):
        weight = procrustes(moments_of(*related(source=source, target=target))).weight
        small = weight @ weight.T if source < target else weight.T @ weight
        torch.testing.assert_close(small, torch.eye(4, dtype=weight.dtype), rtol=0, atol=1e-12)
    x = normal(50, 4)
    wide = torch.linalg.qr(normal(9, 4))[0].T
    torch.testing.assert_close(procrustes(moments_of(x, x @ wide)).weight, wide)


def test_one_factor_is_the_best_factor():
    x, y = related()
    found = scalar_affine(moments_of(x, y))
    for off in (-0.01, 0.01):
        factor = found.weight + off
        assert distance(x, y, Term(factor, y.mean(0) - factor * x.mean(0))) > distance(x, y, found)
    constant = torch.ones(5, 3, dtype=torch.float64)
    found = scalar_affine(moments_of(constant, normal(5, 3)))
    torch.testing.assert_close(found.apply(constant[0]), normal(5, 3).mean(0))


def test_a_method_with_more_freedom_has_no_larger_error_on_what_it_was_fitted_on():
    moments = moments_of(*related())
    error = {name: moments.error(METHODS[name].fit(moments)) for name in METHODS if name != "ridge"}
    identity = moments.error(Term(torch.tensor(1.0)))
    assert error["least-squares"] < error["linear"]
    assert error["least-squares"] < error["procrustes"]
    assert error["least-squares"] < error["scalar-affine"] < error["mean-shift"] < identity


# Fits of models


def sinkless(residuals: list[Tensor]) -> Tensor:
    """Positions of a window after its first where no norm is over ten times the median: once more, with a loop."""
    norms = [[sum(x * x for x in row) ** 0.5 for row in one.tolist()] for one in residuals]
    limits = [10 * sorted(of)[(len(of) - 1) // 2] for of in norms]
    kept = [
        position
        for position in range(1, len(residuals[0]))
        if all(of[position] <= limit for of, limit in zip(norms, limits, strict=True))
    ]
    return torch.tensor(kept)


def kept_activations(model: Model, texts: Texts) -> dict[Site, Tensor]:
    """What stands at the sites of `PAIRS`, window by window, sinks left out."""
    sites = [source for source, _ in PAIRS]
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    read = capture(model, list(windows(model, texts, length=LENGTH)), sites)
    for row in range(len(read[sites[0]])):
        kept = sinkless([read[site][row] for site in sites])
        for site in sites:
            found[site].append(read[site][row][kept].double())
    return {site: torch.cat(rows) for site, rows in found.items()}


def test_a_fit_is_a_slow_solvers_on_activations_that_were_kept(model: Model):
    texts = written(12, 40)
    fitted_on, held_out = (kept_activations(model, part) for part in split_texts(texts, held_out=0.2))
    found = quiet_fit(model, model, texts, method="least-squares", held_out=0.2, n_positions=10_000)
    last, unchanged = PAIRS[0][1], Term(torch.tensor(1.0))
    x, y = fitted_on[Site("embed")], fitted_on[last]
    assert found.fit.n_samples == len(x) > 5 * D_MODEL
    assert found.fit.options["held_out_positions"] == len(held_out[last])
    for source, target in PAIRS:
        x = fitted_on[source]
        # Directions that a norm leaves to rounding are neither's: some 1e-7 long where others are a tenth and more.
        mean_x, mean_y = x.mean(0), y.mean(0)
        wanted = torch.linalg.pinv(x - mean_x, rtol=1e-5) @ (y - mean_y)
        term = found.terms[source, target]
        assert term.weight.dtype == torch.float32
        torch.testing.assert_close(term.weight.double(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
        torch.testing.assert_close(term.apply(mean_x), mean_y, rtol=0, atol=1e-5 * float(y.abs().max()))
        unseen, truth = held_out[source], held_out[target]
        variation = distance(truth.mean(0), truth, unchanged)
        errors = found.fit.held_out[f"{source}>{target}"]
        assert errors["error"] == pytest.approx(distance(unseen, truth, term) / variation, rel=1e-6, abs=1e-9)
        assert errors["identity_error"] == pytest.approx(distance(unseen, truth, unchanged) / variation, abs=1e-9)
        assert errors["mean_error"] == pytest.approx(distance(y.mean(0), truth, unchanged) / variation)


def test_a_site_predicts_itself_and_no_map_fits_worse_than_none(model: Model):
    reader = Reader(model, model, tuple(PAIRS), LENGTH, Stop())
    collected = reader.collect(written(12, 40), 10_000, lambda n: None)
    for pair in PAIRS:
        moments = collected.of(pair)
        for name, most in (("least-squares", 1e-11), ("linear", 1e-11), ("procrustes", 1e-11), ("mean-shift", 1e-11)):
            error = moments.error(METHODS[name].fit(moments)) / moments.variation
            if pair[0] == pair[1]:
                assert error < most, name
            elif name != "procrustes":
                assert error <= moments.error(Term(torch.tensor(1.0))) / moments.variation, name
        assert moments.n == collected.n > 5 * D_MODEL


def rotated(name: str = "llama_untied_biased") -> tuple[Model, Model, Tensor]:
    """A model and the same model in another basis of its residual stream."""
    turn = orthogonal(D_MODEL).float()
    made = [ALL[name].build() for _ in range(2)]
    for hf in made:
        for path, weight in hf.named_parameters():
            if "norm" in path:
                weight.data.fill_(1.0)  # a norm without gains does not know the basis
    for path, weight in made[1].named_parameters():
        if path.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data = turn.T @ weight.data
        elif path.endswith(("o_proj.bias", "down_proj.bias")) or weight.ndim == 2:
            weight.data = weight.data @ turn
    plain, turned = (wrap(hf, tiny_tokenizer(), name=name) for hf in made)
    return plain, turned, turn


def test_another_basis_of_the_residual_stream_is_recovered():
    plain, turned, turn = rotated()
    texts = written(40)
    read = [capture(one, "The cat of the keeper", ["resid_post.2"])["resid_post.2"][0] for one in (plain, turned)]
    torch.testing.assert_close(read[0] @ turn, read[1], rtol=1e-4, atol=1e-4)
    pairs = [("resid_post.1", "resid_post.1"), ("resid_post.2", "resid_post.2")]
    for method in ("procrustes", "least-squares", "ridge", "linear"):
        found = quiet_fit(plain, turned, texts, pairs=pairs, method=method)
        for term in found.terms.values():
            torch.testing.assert_close(term.weight, turn, rtol=0, atol=1e-4)
        for errors in found.fit.held_out.values():
            assert errors["error"] < 1e-7 < 0.1 < errors["identity_error"]
    found.check(plain, turned, set(found.terms))
    with pytest.raises(UsageError, match="as its source"):
        found.check(turned, plain, set(found.terms))


def test_a_sink_of_either_model_is_left_out():
    plain, made = tiny_model("gpt2"), ALL["llama_untied_biased"].build()
    token = plain.tokenize("x the").ids[-1]
    made.get_input_embeddings().weight.data[token] *= 100
    sinking = wrap(made, tiny_tokenizer(), name="sinking")
    texts = written(20)
    read = list(windows(plain, split_texts(texts)[0], length=LENGTH))
    ordinary = sum(token != one for window in read for one in window.ids[1:])
    assert ordinary < sum(len(window) - 1 for window in read)
    pairs = [("embed", "embed")]
    for source, target in ((plain, sinking), (sinking, plain), (sinking, sinking)):
        found = quiet_fit(source, target, texts, pairs=pairs, method="mean-shift")
        assert found.fit.n_samples == ordinary
    assert quiet_fit(plain, plain, texts, pairs=pairs, method="mean-shift").fit.n_samples > ordinary


def test_two_models_are_paired_where_tokens_end_together():
    ours, theirs = tiny_model("gpt2"), wrap(ALL["llama"].build(), sentencepiece_like_tokenizer(), name="other")
    texts = written(30)
    part = split_texts(texts, held_out=0.1)[0]
    x, y = [], []
    for window in aligned_windows(ours, theirs, part, length=LENGTH):
        one, other = capture(ours, window.source, ["embed"]), capture(theirs, window.target, ["embed"])
        kept = [(i, j) for i, j in window.pairs if i and j]
        x += [one["embed"][0][i].double() for i, _ in kept]
        y += [other["embed"][0][j].double() for _, j in kept]
    found = quiet_fit(ours, theirs, texts, pairs=[("embed", "embed")], method="least-squares")
    assert found.fit.n_samples == len(x) > 50
    ones = torch.cat([torch.stack(x), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    wanted = ones @ torch.linalg.pinv(ones) @ torch.stack(y)
    assert not torch.allclose(wanted, torch.stack(y), atol=0.1)
    torch.testing.assert_close(
        found.terms[Site("embed"), Site("embed")].apply(torch.stack(x)), wanted, atol=1e-4, rtol=0
    )


def test_sites_of_other_widths_and_single_heads(llama: Model):
    pairs = [
        ("mlp_post.1", "resid_post.2"),
        ("z.1.2", "z.2.0"),
        ("resid_post.0", "mlp_post.3"),
        ("final_norm", "embed"),
    ]
    found = quiet_fit(llama, llama, written(), pairs=pairs)
    shapes = [tuple(term.weight.shape) for term in found.terms.values()]
    assert shapes == [(D_MLP, D_MODEL), (16, 16), (D_MODEL, D_MLP), (D_MODEL, D_MODEL)]
    assert found.fit.options["width"] == D_MLP
    assert [sorted(errors) for errors in found.fit.held_out.values()] == [
        ["error", "mean_error"],
        ["error", "identity_error", "mean_error"],
        ["error", "mean_error"],
        ["error", "identity_error", "mean_error"],
    ]


def test_blocks_of_any_size_give_one_fit(gpt2: Model, monkeypatch: pytest.MonkeyPatch):
    whole = quiet_fit(gpt2, gpt2, written(), n_positions=300)
    monkeypatch.setattr(collecting, "BLOCK", 1)
    pieces = quiet_fit(gpt2, gpt2, written(), n_positions=300)
    assert whole.fit.n_samples == pieces.fit.n_samples == 300
    for pair, term in whole.terms.items():
        torch.testing.assert_close(term.weight, pieces.terms[pair].weight, rtol=1e-3, atol=1e-4)


def test_positions_are_spread_over_the_text(gpt2: Model):
    texts = given_texts(["cat " * 30] * 50 + ["hello " * 30] * 50)
    pair = Site("embed"), Site("embed")
    tokens = [gpt2.tokenize(f"x {word}").ids[-1:] for word in ("cat", "hello")]
    cat, hello = (rows[0].double() for rows in capture(gpt2, tokens, ["embed"])["embed"])
    mean = Reader(gpt2, gpt2, (pair,), 20, Stop()).collect(texts, 400, lambda n: None).of(pair).mean_x
    share = float((mean - cat) @ (hello - cat) / (hello - cat).square().sum())
    assert 0.2 < share < 0.8, "an even mixture, where the first documents alone would give 0"


# What is told


def test_a_fit_says_what_it_was_fitted_on(gpt2: Model):
    texts, heard = written(60, 40), []
    found = fit_affine(
        gpt2,
        gpt2,
        texts,
        pairs=PAIRS,
        n_positions=480,
        length=LENGTH,
        held_out=0.25,
        progress=lambda *told: heard.append(told),
    )
    assert found.fit.n_samples == found.fit.options["n_positions"] == 480
    assert found.fit.options["held_out_positions"] == 120
    assert found.fit.options["samples_per_width"] == 10
    assert found.fit.options["sinks_left_out"] > 0
    assert found.fit.text == texts.describe()
    assert found.fit.source == found.fit.target
    assert found.fit.source["fingerprint"] == gpt2.fingerprint
    assert set(found.fit.options["lambda"]) == set(found.fit.held_out) == {f"{one}>{other}" for one, other in PAIRS}
    assert heard == sorted(heard)
    assert heard[-1] == (600, 600)
    less = quiet_fit(gpt2, gpt2, texts, n_positions=100_000, ridge=0.5)
    assert 480 < less.fit.n_samples < less.fit.options["n_positions"] == 100_000
    assert set(less.fit.options["lambda"].values()) == {0.5}


def test_too_little_text_for_the_width_is_said(gpt2: Model):
    for n, words in ((479, "fewer than 10"), (D_MODEL, "by heart")):
        with pytest.warns(BathyscopeWarning, match=f"on {n} positions at width {D_MODEL}, .*{words}.*held-out text is"):
            fit_affine(gpt2, gpt2, written(60, 40), pairs=PAIRS, length=LENGTH, n_positions=n)
    # One factor and a shift need no such text, and a warning would be an error here.
    fit_affine(gpt2, gpt2, written(), pairs=PAIRS, length=LENGTH, n_positions=40, method="scalar-affine")


def test_a_saved_fit_is_the_fit(gpt2: Model, tmp_path):
    for method in METHODS:
        found = quiet_fit(gpt2, gpt2, written(), method=method)
        again = Affine.load(found.save(tmp_path / "map.safetensors"))
        assert again == found
        assert again.fit == found.fit
        again.check(gpt2, gpt2, set(PAIRS))
        with pytest.raises(UsageError, match="very weights"):
            again.check(gpt2, tiny_model("opt"), set(PAIRS))


def test_a_model_in_double_precision_has_a_mapping_in_double_precision():
    double = wrap(ALL["gpt2"].build(dtype=torch.float64), tiny_tokenizer(), name="double")
    found = quiet_fit(double, double, written(), method="least-squares")
    assert {term.weight.dtype for term in found.terms.values()} == {torch.float64}
    assert found.fit.held_out["resid_post.3>resid_post.3"]["error"] < 1e-13


def test_a_fit_can_be_stopped(gpt2: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collecting, "BLOCK", LENGTH)
    stop, heard = Stop(), []

    def after_two(done: int, total: int) -> None:
        heard.append(done)
        stop.soon = len(heard) == 2

    with pytest.raises(CancelledError):
        quiet_fit(gpt2, gpt2, written(), stop=stop, progress=after_two)
    assert len(heard) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "methods are ridge, least-squares"),
        ({"method": "linear", "ridge": 0.1}, "for ridge only"),
        ({"ridge": -1.0}, "at least 0"),
        ({"n_positions": 1}, "at least 2"),
        ({"pairs": []}, "no pair of sites"),
        ({"pairs": [("logits", "embed")]}, "inside the model"),
        ({"pairs": [("embed", "z.1")]}, "one vector a position"),
        ({"pairs": [("mlp_post.1", "embed")], "method": "scalar-affine"}, "width 80 to embed of width 48"),
        ({"pairs": [("mlp_post.1", "embed")], "method": "mean-shift"}, "keeps the width"),
        ({"held_out": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(gpt2: Model, options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        quiet_fit(gpt2, gpt2, written(), **options)


def test_text_that_leaves_nothing_to_fit_or_measure_is_refused(gpt2: Model):
    with pytest.raises(SiteError, match=r"resid_post\.9"):
        quiet_fit(gpt2, gpt2, written(), pairs=[("resid_post.9", "embed")])
    with pytest.raises(UsageError, match="positions are left to fit on"):
        quiet_fit(gpt2, gpt2, written(), length=1)
    with pytest.raises(UsageError, match="is the same at all"):
        quiet_fit(gpt2, gpt2, given_texts(["cat" + " cat" * 9] * 20), pairs=[("embed", "embed")], length=8)
