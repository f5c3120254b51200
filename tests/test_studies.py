"""Studies: the same numbers as a loop over single passes, honest intervals, and nothing measured twice."""

import json
import math
import re
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

import command_line
from bathyscope import Model, Store, capture, fitting, plots, prompts, run, studies
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.results import Result
from bathyscope.sites import Site, residual_site
from bathyscope.studies import METHODS, NextTokenResult
from bathyscope.studies.bootstrap import Bootstrap
from bathyscope.studies.places import draw_places
from bathyscope.studies.unseen import parted
from bathyscope.texts import Texts, given_texts, read_texts, split_texts, windows
from conftest import tiny_model

bathyscope, tiny = command_line.bathyscope, command_line.tiny

HARBOUR = Path(__file__).parent / "harbour.txt"
LENGTH = 24
UNFITTED = [method for method in METHODS if method not in ("tuned-lens", "jacobian-lens")]


@pytest.fixture(scope="module")
def texts() -> Texts:
    return read_texts(HARBOUR)


def lens(model: Model, method: str, seed: int = 0, **fit) -> Affine:
    """A lens as nobody would fit it, but for the last block, where it must change nothing."""
    generator = torch.Generator().manual_seed(seed)
    width, last = model.d_model, Site("resid_post", model.n_layers - 1)
    terms = {(last, last): Term(torch.tensor(1.0))}
    for layer in range(-1, model.n_layers - 1):
        weight = torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator) / width**0.5
        terms[residual_site(layer), last] = Term(weight, torch.randn(width, generator=generator))
    identity = model_identity(model)
    return Affine(terms, Fit(method, identity, identity, **fit))


def both_lenses(model: Model) -> dict[str, Affine]:
    return {"tuned_lens": lens(model, "tuned-lens", 1), "jacobian_lens": lens(model, "jacobian-lens", 2)}


def study(model: Model, texts: Texts, **choices) -> NextTokenResult:
    return studies.next_token(model, texts, **{"positions": 12, "length": LENGTH, "seed": 3, **choices})


def figures(result: NextTokenResult) -> dict[tuple[str, int], tuple[float, float]]:
    return {(row["method"], row["layer"]): (row["precision_at_1"], row["surprisal"]) for row in result.rows()}


# The numbers


def by_hand(model: Model, place, method: str, layer: int, lenses: dict[str, Affine]) -> tuple[float, float]:
    """One measurement, by whole passes: read, map, write into a run of the whole target prompt, compare."""
    own = run(model, [place.tokens.ids]).logits[0][place.position].log_softmax(-1)
    source = residual_site(layer)
    value = capture(model, [place.tokens.ids], [source])[source][0][place.position]
    if method in ("token-identity", "bare-placeholder"):
        text = {"token-identity": "cat -> cat\n1135 -> 1135\nhello -> hello\n?", "bare-placeholder": "?"}[method]
        target, site = model.tokenize(text), source
    else:
        target, site = model.tokenize("any text"), Site("resid_post", model.n_layers - 1)
    if method in ("tuned-lens", "jacobian-lens"):
        term = lenses[method.replace("-", "_")].terms[source, site]
        value = value @ term.weight if term.weight.ndim else value * term.weight
        value = value if term.bias is None else value + term.bias
    written = run(model, target, writes=[Write(site, Replace(value), (len(target) - 1,))]).logits[0][-1]
    return float(written.argmax() == own.argmax()), float(-own[written.argmax()])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon"])
def test_every_figure_is_the_mean_of_single_measurements_by_whole_passes(family: str, texts: Texts):
    model = tiny_model(family)
    lenses = both_lenses(model)
    found = figures(study(model, texts, positions=6, per_window=2, **lenses))
    _, measured = split_texts(texts, held_out=0.3)
    places = draw_places(model, measured, positions=6, per_window=2, length=LENGTH, seed=3)
    for method in METHODS:
        for layer in (-1, 1, 3):
            single = [by_hand(model, place, method, layer, lenses) for place in places]
            expected = tuple(sum(values) / len(values) for values in zip(*single, strict=True))
            assert found[method, layer] == pytest.approx(expected, abs=1e-3), (method, layer)
    assert len({found[method, 1] for method in METHODS}) == len(METHODS), "methods that say the same prove nothing"


def test_at_the_last_block_every_method_gives_the_models_own_answer(model: Model, texts: Texts):
    lenses = both_lenses(model)
    found = study(model, texts, positions=4, per_window=2, layers=model.n_layers - 1, **lenses)
    _, measured = split_texts(texts, held_out=0.3)
    places = draw_places(model, measured, positions=4, per_window=2, length=LENGTH, seed=3)
    logits = [run(model, [place.tokens.ids]).logits[0][place.position] for place in places]
    least = sum(float(-row.log_softmax(-1).max()) for row in logits) / len(logits)
    assert {row["method"] for row in found.rows()} == set(METHODS)
    for row in found.rows():
        assert row["precision_at_1"] == 1.0
        assert row["surprisal"] == pytest.approx(least, rel=1e-4)
        if row["method"] != "logit-lens":
            assert row["precision_at_1_minus_logit_lens_interval"] == [0.0, 0.0]


def test_no_method_has_less_surprisal_than_the_models_own_answer(llama: Model, texts: Texts):
    found = figures(study(llama, texts, **both_lenses(llama)))
    least = found["logit-lens", 3][1]
    assert all(surprisal >= least - 1e-5 for _, surprisal in found.values())
    assert len({surprisal for _, surprisal in found.values()}) > 15


def test_a_control_is_the_prompt_as_it_stands(llama: Model, texts: Texts):
    found = study(llama, texts, methods=["token-identity"], positions=6, per_window=2)
    _, measured = split_texts(texts, held_out=0.3)
    places = draw_places(llama, measured, positions=6, per_window=2, length=LENGTH, seed=3)
    said = run(llama, prompts.token_identity().text).logits[0][-1].argmax()
    own = [run(llama, [place.tokens.ids]).logits[0][place.position].log_softmax(-1) for place in places]
    (control,) = found.controls
    assert control["precision_at_1"] == sum(bool(row.argmax() == said) for row in own) / 6
    assert control["surprisal"] == pytest.approx(float(-torch.stack(own)[:, said].mean()), rel=1e-4)


def test_differences_are_those_of_the_rows(llama: Model, texts: Texts):
    found = study(llama, texts, **both_lenses(llama))
    rows = figures(found)
    for row in found.rows():
        if row["method"] == "logit-lens":
            assert "precision_at_1_minus_logit_lens" not in row
            continue
        for measure, index in (("precision_at_1", 0), ("surprisal", 1)):
            difference = rows[row["method"], row["layer"]][index] - rows["logit-lens", row["layer"]][index]
            assert row[f"{measure}_minus_logit_lens"] == pytest.approx(difference, abs=1e-9)
            low, high = row[f"{measure}_minus_logit_lens_interval"]
            assert low <= row[f"{measure}_minus_logit_lens"] <= high


# Intervals


def test_an_interval_of_independent_windows_is_the_one_of_the_textbook():
    generator = numpy.random.default_rng(0)
    values = generator.random(800) < 0.3
    low, high = Bootstrap.of(range(800)).interval(values)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.3 * 0.7 / 800), rel=0.1)


def test_positions_that_repeat_their_window_make_no_interval_narrower():
    """Were positions drawn again one by one, four times as many would halve the interval."""
    values = numpy.random.default_rng(1).normal(size=60)
    once = Bootstrap.of(range(60), seed=5).interval(values)
    four = Bootstrap.of(numpy.repeat(range(60), 4), seed=5).interval(numpy.repeat(values, 4))
    assert four == pytest.approx(once)


def test_windows_of_unequal_size_count_by_their_positions():
    drawn = Bootstrap.of([0, 0, 0, 1], resamples=4000)
    means = {0.0, 0.75, 1.0}
    assert set(drawn.interval([1.0, 1.0, 1.0, 0.0])) <= means
    assert drawn.mean([1.0, 1.0, 1.0, 0.0]) == 0.75


def test_an_interval_holds_its_mean_and_shrinks_with_more_windows(llama: Model, texts: Texts):
    few, many = (study(llama, texts, methods=["logit-lens"], positions=n, per_window=1).rows() for n in (6, 36))
    for row in [*few, *many]:
        for measure in ("precision_at_1", "surprisal"):
            low, high = row[f"{measure}_interval"]
            assert low <= row[measure] <= high

    def widths(rows):
        return sum(row["surprisal_interval"][1] - row["surprisal_interval"][0] for row in rows)

    assert widths(many) < 0.7 * widths(few)


# Places


def test_the_same_seed_measures_the_same_and_another_seed_elsewhere(llama: Model, texts: Texts):
    chosen = {"methods": UNFITTED, "positions": 10}
    once, again, other = (study(llama, texts, seed=seed, **chosen) for seed in (0, 0, 1))
    assert once.records == again.records and once.controls == again.controls
    assert figures(once) != figures(other)
    assert once.provenance["spec"]["places"] != other.provenance["spec"]["places"]


def test_places_are_spread_over_windows_and_leave_out_the_first_position(llama: Model, texts: Texts):
    places = draw_places(llama, texts, positions=90, per_window=4, length=LENGTH, seed=0)
    assert len({(place.tokens.ids, place.position) for place in places}) == len(places) == 90
    by_window: dict[int, list[int]] = {}
    for place in places:
        assert 1 <= place.position < len(place.tokens)
        by_window.setdefault(place.window, []).append(place.position)
    assert sorted(by_window) == list(range(23))
    assert {len(found) for found in by_window.values()} == {3, 4}
    for place in places:  # one in each stretch of equal length
        found = by_window[place.window]
        bounds = numpy.linspace(1, len(place.tokens), len(found) + 1).astype(int)
        assert [bounds[i] <= position < bounds[i + 1] for i, position in enumerate(found)] == [True] * len(found)


def test_who_asks_for_more_windows_gets_the_former_ones_too(llama: Model, texts: Texts):
    few, many = (set(draw_places(llama, texts, positions=n, per_window=2, length=LENGTH)) for n in (10, 30))
    assert {(place.tokens.ids, place.position) for place in few} < {(p.tokens.ids, p.position) for p in many}


def test_a_window_that_stands_in_the_text_twice_is_measured_once(llama: Model):
    twice = given_texts(["The boats go out in the morning, and they come back in the evening with fish."] * 2)
    distinct = {window.ids for window in windows(llama, twice, length=12)}
    with pytest.raises(UsageError, match=f"has {len(distinct)} different windows"):
        draw_places(llama, twice, positions=1000, per_window=5, length=12)


def test_a_short_text_is_read_at_more_positions_a_window_or_refused_with_the_numbers(llama: Model, texts: Texts):
    _, measured = split_texts(texts, held_out=0.1)
    n = len({window.ids for window in windows(llama, measured, length=LENGTH)})
    places = draw_places(llama, measured, positions=5 * n, length=LENGTH)
    assert len(places) == 5 * n and places[-1].window == n - 1
    with pytest.raises(UsageError, match=f"5,000 positions .* has {n} different windows .*: {11 * n} positions"):
        draw_places(llama, measured, positions=5000, length=LENGTH)
    with pytest.raises(UsageError, match=f"--positions {4 * n},"):
        draw_places(llama, measured, positions=5 * n, per_window=4, length=LENGTH)


# Text that a lens has seen


def test_what_is_measured_on_is_what_no_lens_has_seen(llama: Model, texts: Texts):
    fit, measured = parted(texts, None, [])
    assert [*fit.documents(), *measured.documents()] == list(texts.documents())
    assert len(list(measured.documents())) == 4
    seen_most = lens(llama, "tuned-lens", text=texts.describe(), options={"held_out": 0.1})
    _, measured = parted(texts, None, [seen_most])
    assert list(measured.documents()) == list(texts.documents())[-1:]
    on_its_part = lens(llama, "tuned-lens", text=split_texts(texts, held_out=0.25)[0].describe())
    _, measured = parted(texts, None, [on_its_part])
    assert list(measured.documents()) == list(texts.documents())[-3:]


@pytest.mark.parametrize(
    ("fit", "held_out", "said"),
    [
        ({"options": {"held_out": 0.1}}, 0.3, "documents 0 to 10 .* documents 8 to 11 .* Try: --held-out 0.08"),
        ({"options": {"held_out": 0.1}}, 1, "documents 0 to 10 .* documents 0 to 11"),
        ({}, None, "fitted on this very text, harbour.txt"),
    ],
)
def test_a_lens_is_not_measured_on_what_it_was_fitted_on(llama: Model, texts: Texts, fit, held_out, said):
    seen = lens(llama, "tuned-lens", text=texts.describe(), **fit)
    with pytest.raises(UsageError, match=said):
        study(llama, texts, methods=["logit-lens", "tuned-lens"], tuned_lens=seen, held_out=held_out)


def test_a_share_that_is_named_as_the_remedy_works(llama: Model, texts: Texts):
    seen = lens(llama, "tuned-lens", text=texts.describe(), options={"held_out": 0.1})
    with pytest.raises(UsageError) as refused:
        parted(texts, 0.5, [seen])
    share = float(re.search(r"--held-out (\S+),", str(refused.value))[1])
    parted(texts, share, [seen])


def test_a_lens_that_is_not_what_was_asked_for_is_refused(llama: Model, gpt2: Model, texts: Texts):
    with pytest.raises(UsageError, match="fitted as 'jacobian-lens'"):
        study(llama, texts, methods=["tuned-lens"], tuned_lens=lens(llama, "jacobian-lens"))
    with pytest.raises(UsageError, match="fitted with 'gpt2'"):
        study(llama, texts, methods=["tuned-lens"], tuned_lens=lens(gpt2, "tuned-lens"))
    with pytest.raises(UsageError, match="a lens is given to be measured"):
        study(llama, texts, methods=["logit-lens"], tuned_lens=lens(llama, "tuned-lens"))
    with pytest.raises(UsageError, match="no method is called 'tuned'"):
        study(llama, texts, methods=["tuned"])
    with pytest.raises(UsageError, match="is to be fitted on some"):
        study(llama, texts, methods=["jacobian-lens"], held_out=1)


# Lenses that are fitted here


@pytest.fixture
def jacobian_fits(monkeypatch: pytest.MonkeyPatch) -> list[Texts]:
    """What every fit of a Jacobian lens was given to read."""
    given: list[Texts] = []
    fit = fitting.fit_jacobian_lens

    def counted(model, texts, **settings):
        given.append(texts)
        return fit(model, texts, **{"n_prompts": 4, "length": LENGTH, "skip_first": 2, "directions": 12, **settings})

    monkeypatch.setattr(fitting, "fit_jacobian_lens", counted)
    return given


def test_a_lens_is_fitted_on_the_rest_of_the_text_kept_and_found_again(llama, texts, tmp_path, jacobian_fits):
    with Store(tmp_path) as store:
        first = study(llama, texts, methods=["jacobian-lens"], store=store)
        again = study(llama, texts, methods=["logit-lens", "jacobian-lens"], store=store)
        (read,) = jacobian_fits
        assert list(read.documents()) == list(texts.documents())[:8]
        assert {one: figures(again)[one] for one in figures(first)} == figures(first)
        assert first.provenance["spec"]["lenses"] == again.provenance["spec"]["lenses"]
        (kept,) = (tmp_path / "lenses").iterdir()
        kept.write_bytes(kept.read_bytes()[:100])
        assert study(llama, texts, methods=["jacobian-lens"], store=store).records == first.records
        assert len(jacobian_fits) == 2, "a damaged lens was not fitted again"
        study(llama, texts, methods=["jacobian-lens"], store=store, seed=4)
        assert len(jacobian_fits) == 3, "a lens of another seed was taken"
    assert study(llama, texts, methods=["jacobian-lens"]).records == first.records
    assert len(jacobian_fits) == 4


def test_what_will_be_fitted_is_known_beforehand(llama: Model, texts: Texts):
    fits = studies.lens_fits(llama, texts, positions=12, length=LENGTH, fit_positions=500)
    assert list(fits) == ["tuned_lens", "jacobian_lens"]
    assert fits["tuned_lens"].settings["n_positions"] == 500
    given = studies.lens_fits(llama, texts, positions=12, length=LENGTH, tuned_lens=lens(llama, "tuned-lens"))
    assert list(given) == ["jacobian_lens"]


# The planner and the store


def test_the_logit_lens_costs_no_target_pass_and_a_window_is_read_once(llama: Model, texts: Texts):
    plans = studies.plan_next_token(llama, texts, positions=24, per_window=2, length=LENGTH, **both_lenses(llama))
    assert list(plans) == [*METHODS, "all"]
    for method in ("logit-lens", "tuned-lens", "jacobian-lens"):
        assert (plans[method].target_passes, plans[method].batch_passes) == (0, 0)
        assert re.search(r"common target passes +0\n", plans[method].explain())
    assert plans["token-identity"].target_passes == plans["bare-placeholder"].target_passes == 1
    assert {plan.source_passes for plan in plans.values()} == {12}
    with pytest.raises(UsageError, match="the tuned-lens was not given"):
        studies.plan_next_token(llama, texts, positions=4, length=LENGTH)


def test_nothing_is_measured_twice(llama: Model, texts: Texts, tmp_path):
    choices = {"methods": ["logit-lens", "token-identity"], "positions": 10, "per_window": 2}
    plain = study(llama, texts, **choices)
    with Store(tmp_path) as store:
        first = study(llama, texts, store=store, **choices)
        again = study(llama, texts, store=store, **choices)
        more = study(llama, texts, store=store, **{**choices, "methods": UNFITTED})
        seed = study(llama, texts, store=store, **{**choices, "seed": 4})
    assert plain.records == first.records == again.records
    assert plain.controls == first.controls == again.controls
    assert first.run == again.run != more.run
    # 5 layers; the prompts have a control each besides.
    assert [result.timing["computed"] for result in (first, again, more, seed)] == [110, 0, 60, 110]
    assert {one: figures(more)[one] for one in figures(first)} == figures(first)


@pytest.mark.parametrize("soon", [True, False])
def test_an_interrupted_study_goes_on_where_it_stopped(llama, texts, tmp_path, monkeypatch, soon):
    monkeypatch.setattr("bathyscope.studies.next_token_study.asked.WINDOWS", 2)
    choices = {"methods": UNFITTED, "positions": 12, "per_window": 2}
    plain = study(llama, texts, **choices)
    group = 2 * 2 * (5 + 6 + 6)
    stop, told = Stop(), []

    def tick(done: int, total: int) -> None:
        told.append((done, total))
        if done >= group + 1:
            stop.soon, stop.now = soon, not soon

    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            study(llama, texts, store=store, progress=tick, stop=stop, **choices)
        rest = study(llama, texts, store=store, **choices)
    assert rest.timing["computed"] == 2 * group == plain.timing["cells"] - group
    assert rest.records == plain.records
    assert {total for _, total in told} == {3 * group}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_record_that_was_damaged_is_measured_again(llama: Model, texts: Texts, tmp_path):
    choices = {"methods": ["logit-lens"], "positions": 8, "per_window": 2}
    with Store(tmp_path) as store:
        first = study(llama, texts, store=store, **choices)
    with sqlite3.connect(tmp_path / "runs.sqlite") as connection:
        one = "(SELECT min(key) FROM cells)"
        connection.execute(f"UPDATE cells SET result = replace(result, '.', '1.') WHERE key = {one}")
    with Store(tmp_path) as store:
        again = study(llama, texts, store=store, **choices)
    assert again.timing["computed"] == 10
    for one, found in figures(first).items():  # in a smaller batch, so that the last bit may differ
        assert figures(again)[one] == pytest.approx(found, rel=1e-5)


def test_a_small_memory_budget_changes_no_figure(llama: Model, texts: Texts):
    whole, small = (study(llama, texts, methods=UNFITTED, budget=budget) for budget in (2**31, 2**16))
    assert whole.plans["first windows"]["batches"] < small.plans["first windows"]["batches"]
    for one, (precision, surprisal) in figures(whole).items():
        assert figures(small)[one] == pytest.approx((precision, surprisal), abs=1e-4)


# What is shown


@pytest.fixture(scope="module")
def result(texts: Texts) -> NextTokenResult:
    model = tiny_model("llama")
    return study(model, texts, **both_lenses(model))


def test_a_result_is_saved_and_loaded(result: NextTokenResult, tmp_path):
    result.save(tmp_path / "study.json")
    loaded = Result.load(tmp_path / "study.json")
    assert isinstance(loaded, NextTokenResult)
    assert loaded.to_json() == result.to_json()
    assert len(loaded.to_frame()) == 25


def test_a_page_has_every_figure_and_no_script(result: NextTokenResult):
    hostile = replace(result, provenance={**result.provenance, "models": [{"model": "<script>alert(1)</script>"}]})
    page = hostile.to_html()
    assert "<script" not in page and "&lt;script" in page
    assert page.count("--heat:") == 25
    assert page.count(f"({result.records[0]['surprisal']:.1f})") >= 1


def test_a_plot_is_the_same_bytes_for_the_same_result_and_others_for_another(result: NextTokenResult, tmp_path):
    first, second, other = (tmp_path / name for name in ("a.svg", "b.svg", "c.svg"))
    plots.save_plot(result, first)
    plots.save_plot(result, second)
    changed = [{**row, "precision_at_1": row["precision_at_1"] / 2} for row in result.records]
    plots.save_plot(replace(result, records=tuple(changed)), other)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    drawn = first.read_text("utf-8")
    assert "<dc:date>" not in drawn and "<script" not in drawn
    for look in plots.LOOKS.values():
        assert drawn.count(f"stroke: {look.colour}") + drawn.count(f"stroke-opacity: {look.colour}") >= 2, look
    plots.save_plot(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_plot_is_refused_before_it_is_drawn(result: NextTokenResult, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        plots.save_plot(result, tmp_path / "study.pdf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"bathyscope\[plots\]"):
        plots.save_plot(result, tmp_path / "study.png")


# The command line


def test_json_has_the_shape_that_other_tools_rely_on(bathyscope, tiny):
    done = bathyscope(
        "study", "next-token", "--text", str(HARBOUR), "--positions", "30", "--seed", "5", "--json", "--no-store",
        "--methods", ",".join(UNFITTED), "--model", tiny,
    )  # fmt: skip
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    found = done.json()
    assert found["kind"] == "next-token"
    assert {"rows", "provenance"} <= found.keys()
    assert [(row["method"], row["layer"]) for row in found["rows"]] == [
        (method, layer) for method in UNFITTED for layer in range(-1, 4)
    ]
    for row in found["rows"]:
        assert {"layer", "method", "precision_at_1", "surprisal", "n"} <= row.keys()
        assert row["n"] == 30 and 0 <= row["precision_at_1"] <= 1
    assert [row["precision_at_1"] for row in found["rows"] if row["layer"] == 3] == [1.0] * 3
    spec = found["provenance"]["spec"]
    assert (spec["seed"], spec["positions"], spec["text"]["name"]) == (5, 30, "harbour.txt")


def test_the_table_marks_the_best_and_fits_into_a_terminal(bathyscope, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path / "home"))
    model = command_line.loading.load(tiny)
    given = []
    for name, lens_of in both_lenses(model).items():
        lens_of.save(tmp_path / f"{name}.safetensors")
        given += [f"--{name.replace('_', '-')}", str(tmp_path / f"{name}.safetensors")]
    done = bathyscope(
        "study", "next-token", "--text", str(HARBOUR), "--positions", "40", "--model", tiny, *given,
        "--out", str(tmp_path / "study.json"), "--plot", str(tmp_path / "study.svg"), "--explain",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert re.search(r"^logit-lens, .*\n(.*\n){3} +common target passes +0$", done.err, re.MULTILINE)
    assert (tmp_path / "study.svg").is_file()
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    shown = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    assert max(map(len, done.out.splitlines())) <= 80
    for layer in (0, 1, 2):
        there = [row for row in rows if row["layer"] == layer]
        best = max(row["precision_at_1"] for row in there)
        expected = [
            f"{row['precision_at_1']:.3f}".removeprefix("0")
            + f" ({row['surprisal']:.1f})"
            + "*" * (row["precision_at_1"] == best)
            for row in there
        ]
        assert re.findall(r"[\d.]+ \([\d.]+\)\*?", shown[str(layer)]) == expected
    assert "*" not in shown["3"], "where all are equal none is best"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "logit-lens,lens"], "no method is called 'lens'"),
        (["--methods", "logit-lens", "--positions", "90000"], "different windows"),
        (["--plot", "study.pdf"], ".png or .svg"),
        (["--layers", "9", "--methods", "logit-lens"], "layer 9 does not exist"),
        (["--tuned-lens", str(HARBOUR)], "could not be read as a mapping"),
        (["--tuned-lens", "t.safetensors", "--fit-positions", "9"], "either given or fitted"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(bathyscope, tiny, arguments, said):
    done = bathyscope("study", "next-token", "--text", str(HARBOUR), "--model", tiny, "--no-store", *arguments)
    command_line.assert_one_line(done, said)
    assert done.code == 2


def test_a_study_is_listed_with_its_text_and_is_not_resumed_as_a_patchscope(bathyscope, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    asked = (
        "study",
        "next-token",
        "--text",
        str(HARBOUR),
        "--methods",
        "logit-lens",
        "--positions",
        "20",
        "--model",
        tiny,
    )
    assert bathyscope(*asked, "--json").json()["timing"]["computed"] == 100
    assert bathyscope(*asked, "--json").json()["timing"]["computed"] == 0
    assert "next-token: harbour.txt" in bathyscope("runs", "list").out
    (run,) = bathyscope("runs", "list", "--json").json()["runs"]
    command_line.assert_one_line(bathyscope("runs", "resume", run["id"]), "the same bathyscope command")


# A model that has learned something


@pytest.mark.slow
@pytest.mark.embedded
def test_token_identity_is_ahead_of_the_logit_lens_in_the_embedded_model(texts: Texts):
    from bathyscope import load

    found = studies.next_token(
        load(), texts, methods=["logit-lens", "token-identity"], layers=[14, 18, 22, 26], positions=200, held_out=1
    )
    assert [row["precision_at_1_minus_logit_lens"] > 0 for row in found.of("token-identity")] == [True] * 4
