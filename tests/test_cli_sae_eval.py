"""`bathyscope sae eval`: what it prints for one coder and for several, what a person sees, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

import command_line
from bathyscope import loading
from bathyscope.mappings import model_identity
from bathyscope.results import Result
from bathyscope.sae import CoderEvaluation, CoderEvaluations, evaluate_coder, load_coder, save_coder
from bathyscope.sites import Site
from bathyscope.texts import read_texts, split_texts
from coders_for_tests import identity_coder, random_coder
from command_line import assert_one_line
from test_fitting import written

tiny, bathyscope, home = command_line.tiny, command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

KEYS = {"fvu", "explained_variance", "l0", "dead_fraction", "loss_recovered", "ce_clean", "ce_spliced", "ce_zero"}
KEYS |= {"ce_mean", "fvu_all", "loss_recovered_mean", "delta_ce", "kl_spliced", "by_class", "density", "kind"}
SITES = ("resid_post.1", "mlp_out.2")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "news.txt"
    path.write_text("\n\n".join(f" = Article {index} = \n\n{one}" for index, one in enumerate(written(10).documents())))
    return str(path)


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    """DIR/SITE, as training leaves coders."""
    model = loading.load(tiny)
    for name in SITES:
        site = Site.parse(name)
        coder = random_coder(model.d_model, seed=len(name))
        about = {"site": site, "target": site, "model": model_identity(model)}
        save_coder(replace(coder, **about), tmp_path / "coders" / name)
    return tmp_path / "coders"


def test_one_coder_prints_its_measures_at_the_top(bathyscope, tiny, folder, text):
    done = bathyscope(
        "sae", "eval", str(folder / SITES[0]), "--text", text, "--length", "24", "--json", "--model", tiny
    )
    assert done.code == 0 and done.out.count("\n") == 1
    found, model = done.json(), loading.load(tiny)
    assert set(found) >= KEYS and found["kind"] == "coder-evaluation"
    wanted = evaluate_coder(model, load_coder(folder / SITES[0]), read_texts(text), length=24)
    for name, value in wanted.rows()[0].items():
        assert found[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name


def test_a_folder_of_one_coder_is_that_coder(bathyscope, tiny, folder, text):
    asked = ("--text", text, "--length", "24", "--json", "--model", tiny)
    alone = bathyscope("sae", "eval", str(folder / SITES[1]), *asked).json()
    (folder / SITES[0]).rename(folder.parent / "elsewhere")
    within = bathyscope("sae", "eval", str(folder), *asked).json()
    assert within["site"] == SITES[1] and within["fvu"] == alone["fvu"]


def test_several_coders_are_printed_by_their_folders(bathyscope, tiny, folder, text, tmp_path):
    out = tmp_path / "measured.json"
    asked = ("--text", text, "--text", text, "--length", "24", "--json", "--model", tiny, "--out", str(out))
    found = bathyscope("sae", "eval", str(folder), *asked).json()
    assert set(found["coders"]) == set(SITES)
    assert all(set(one) >= KEYS for one in found["coders"].values())
    assert len(found["provenance"]["spec"]["texts"]) == 2
    kept = Result.load(out)
    assert isinstance(kept, CoderEvaluations) and kept[SITES[0]].reconstruction.fvu == found["coders"][SITES[0]]["fvu"]


def test_held_out_text_is_the_last_documents(bathyscope, tiny, folder, text):
    asked = ("sae", "eval", str(folder / SITES[0]), "--text", text, "--length", "24", "--json", "--model", tiny)
    found = bathyscope(*asked, "--held-out", "0.3").json()
    model, coder = loading.load(tiny), load_coder(folder / SITES[0])
    wanted = evaluate_coder(model, coder, split_texts(read_texts(text), held_out=0.3)[1], length=24)
    assert found["fvu"] == pytest.approx(wanted.reconstruction.fvu, rel=1e-6)
    assert found["n"] < bathyscope(*asked).json()["n"]
    fewer = bathyscope(*asked, "--tokens", "60", "--loss-tokens", "30").json()["provenance"]["spec"]
    assert fewer["loss_tokens"] < fewer["tokens"] < 90


def test_a_person_sees_tables_and_what_they_mean(bathyscope, tiny, folder, text, tmp_path):
    page = tmp_path / "measured.html"
    done = bathyscope("sae", "eval", str(folder), "--text", text, "--length", "24", "--model", tiny, "--out", str(page))
    assert done.code == 0 and f"saved to {page}" in done.err
    one = Result.load(_json(bathyscope, tiny, folder, text, tmp_path))
    assert isinstance(one, CoderEvaluations)
    for name in SITES:
        row = next(line for line in done.out.splitlines() if line.split()[:1] == [name])
        assert f"{one[name].reconstruction.fvu:.3f}" in row and f"{one[name].loss.delta_ce:.3f}" in row
    assert "fraction of variance unexplained" in done.out and "sinks and special tokens: " in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert "<script" not in page.read_text("utf-8") and SITES[1] in page.read_text("utf-8")


def _json(bathyscope, tiny, folder, text, tmp_path) -> Path:
    out = tmp_path / "again.json"
    bathyscope("sae", "eval", str(folder), "--text", text, "--length", "24", "--model", tiny, "--out", str(out))
    return out


@pytest.mark.parametrize("columns", ["36", "60"])
def test_a_narrow_terminal_cuts_no_number(bathyscope, tiny, folder, text, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    done = bathyscope("sae", "eval", str(folder), "--text", text, "--length", "24", "--model", tiny)
    kept = Result.load(_json(bathyscope, tiny, folder, text, tmp_path))
    assert isinstance(kept, CoderEvaluations)
    assert max(map(len, done.out.splitlines())) <= int(columns)
    for name, one in kept.coders.items():
        assert name in done.out
        for value in (one.reconstruction.fvu, one.reconstruction.fvu_all, one.loss.loss_recovered):
            assert value is not None and (f"{value:.3f}" in done.out or f"{value:,.1f}" in done.out)
    assert "…" not in done.out


def test_what_cannot_be_measured_is_one_line(bathyscope, tiny, folder, text, tmp_path):
    asked = ("--text", text, "--length", "24", "--model", tiny)
    assert_one_line(bathyscope("sae", "eval", str(tmp_path / "nowhere"), *asked), "nowhere")
    assert_one_line(
        bathyscope("sae", "eval", str(folder), "--text", str(tmp_path / "no.txt"), "--model", tiny), "does not exist"
    )
    other = replace(
        identity_coder(48), site=Site("resid_post", 1), target=Site("resid_post", 1), model={"fingerprint": "0" * 64}
    )
    save_coder(other, tmp_path / "foreign")
    done = bathyscope("sae", "eval", str(tmp_path / "foreign"), *asked)
    assert done.code == 2
    assert_one_line(done, "belongs to the very weights")
    assert bathyscope("sae", "eval", str(folder), *asked, "--out", "measured.csv").code == 2


def test_a_loaded_evaluation_has_its_kind(bathyscope, tiny, folder, text, tmp_path):
    out = tmp_path / "one.json"
    asked = ("--text", text, "--length", "24", "--model", tiny, "--out", str(out))
    bathyscope("sae", "eval", str(folder / SITES[0]), *asked)
    assert isinstance(Result.load(out), CoderEvaluation)
