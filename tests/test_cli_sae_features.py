"""`bathyscope sae features` and `bathyscope sae explain`: what they print, and what they refuse."""

from pathlib import Path

import pytest
import torch

from bathyscope import loading, sae
from bathyscope.errors import StorageError
from bathyscope.results import Result
from bathyscope.sae import KeepTop, SparseCoder
from bathyscope.sites import Site
from command_line import assert_one_line, bathyscope, home, tiny  # noqa: F401 (fixtures)
from tokenizers_for_tests import PLAIN_ENGLISH

N_LATENTS = 40


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "news.txt"
    path.write_text("\f".join(PLAIN_ENGLISH[first : first + 700] for first in range(0, 900, 100)), "utf-8")
    return str(path)


@pytest.fixture
def coders(monkeypatch, tmp_path) -> str:
    """A folder that loads as a coder at block 2; "many" loads as two, "none" as none."""
    draw, site = torch.Generator().manual_seed(0), Site("resid_post", 2)
    rows = torch.randn(N_LATENTS, 48, generator=draw)
    coder = SparseCoder(rows, torch.zeros(N_LATENTS), rows, torch.zeros(48), KeepTop(4), site=site, target=site)

    def folders(path: str) -> list[Path]:
        if str(path).endswith("none"):
            raise StorageError(f"{path} holds no coder", "a folder that bathyscope sae train wrote is needed")
        return (
            [Path(path) / "resid_post.1", Path(path) / "resid_post.2"] if str(path).endswith("many") else [Path(path)]
        )

    monkeypatch.setattr(sae, "coder_folders", folders, raising=False)
    monkeypatch.setattr(sae, "load_coder", lambda path: coder, raising=False)
    return str(tmp_path / "coder")


def test_latents_are_listed_the_best_rule_first(bathyscope, tiny, coders, text):  # noqa: F811
    shown = bathyscope("sae", "features", coders, "--text", text, "--model", tiny, "--top", "5")
    assert shown.code == 0, shown.err
    found = bathyscope("sae", "features", coders, "--text", text, "--model", tiny, "--top", "5", "--json").json()
    assert found["kind"] == "latent-readings" and len(found["rows"]) == 5
    best = max(found["rows"], key=lambda row: row["f1"] - row["control_f1"])
    lines = [line for line in shown.out.splitlines() if line.strip()[:1].isdigit() and "%" in line]
    assert len(lines) == 5 and lines[0].split()[0] == str(best["latent"])
    assert "«" in lines[0] and f"{best['f1']:.2f} ({best['control_f1']:.2f})" in lines[0]
    assert "final norm's gain left out" in " ".join(shown.out.split())


def test_one_latent_is_shown_in_full(bathyscope, tiny, coders, text):  # noqa: F811
    arguments = ("sae", "features", coders, "--text", text, "--model", tiny, "--latent", "7")
    found = bathyscope(*arguments, "--json").json()
    row, whole = found["rows"][0], found["latents"][0]
    assert len(whole["examples"]) > 1 and sum(count for _, count in whole["histogram"]) == row["active"]
    shown = " ".join(bathyscope(*arguments).out.split())
    assert row["latent"] == 7
    for part in (f"at {row['active']:,} positions", "promotes:", "suppresses:", "nearest:", "samples of each quarter"):
        assert part in shown
    assert f"precision {row['precision']:.2f}, recall {row['recall']:.2f}" in shown
    assert f"nearest: {row['neighbours'][0]} (" in shown


def test_search_lists_only_what_holds_the_word(bathyscope, tiny, coders, text):  # noqa: F811
    arguments = ("sae", "features", coders, "--text", text, "--model", tiny)
    word = bathyscope(*arguments, "--latent", "7", "--json").json()["rows"][0]["promoted"][0].strip()
    found = bathyscope(*arguments, "--search", word, "--top", "40", "--json").json()["rows"]
    assert 7 in [row["latent"] for row in found] and len(found) < N_LATENTS
    none = bathyscope(*arguments, "--search", "no such word anywhere")
    assert none.code == 0 and "No latent has this text" in none.out


def test_a_page_and_a_file_hold_every_latent(bathyscope, tiny, coders, text, tmp_path):  # noqa: F811
    out, page = tmp_path / "found.json", tmp_path / "found.html"
    arguments = ("sae", "features", coders, "--text", text, "--model", tiny, "--latent", "7", "--out", str(out))
    assert bathyscope(*arguments, "--html", str(page)).code == 0
    assert len(Result.load(out)) == N_LATENTS
    assert "script-src 'sha256-" in page.read_text("utf-8")


def test_what_a_model_wrote_cannot_harm_the_terminal(bathyscope, tiny, coders, text, monkeypatch):  # noqa: F811
    model = loading.load(tiny)
    monkeypatch.setattr(loading, "load", lambda *args, **options: model)
    monkeypatch.setattr(type(model), "token_texts", lambda self, ids: tuple("\x1b[31m\x07\u202e" for _ in ids))
    for more in (("--top", "3"), ("--latent", "3")):
        shown = bathyscope("sae", "features", coders, "--text", text, "--model", tiny, *more)
        assert shown.code == 0 and "\\x1b" in shown.out
        assert not set("\x1b\x07\u202e") & set(shown.out)


def test_explain_sets_a_description_beside_its_controls(bathyscope, tiny, coders, text):  # noqa: F811
    arguments = ("sae", "explain", coders, "--latent", "3", "--latent", "9", "--model", tiny, "--new-tokens", "3")
    shown = bathyscope(*arguments, "--text", text)
    assert shown.code == 0, shown.err
    found = bathyscope(*arguments, "--text", text, "--json").json()
    told = " ".join(shown.out.split())
    for latent in ("3", "9"):
        one = found["descriptions"][latent]
        assert one["n_controls"] == 10  # nine random directions, and the other latent
        assert f"score {one['score']:.2f}, best of 10 controls {one['control']:.2f}" in told
        (row,) = [row for row in found["rows"] if row["latent"] == int(latent)]
        assert (row["description"] == "says nothing") == (one["score"] <= one["control"])
    assert "beat their controls; 0.2 would by chance" in told


def test_explain_without_a_text_reads_what_the_model_writes(bathyscope, tiny, coders, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bathyscope.cli.sae_explain.DOCUMENTS", 8)
    shown = bathyscope("sae", "explain", coders, "--latent", "3", "--model", tiny, "--new-tokens", "2")
    assert shown.code == 0 and "writes 8 documents itself" in shown.err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("features", "--latent", "40"), "the coder has latents 0 to 39"),
        (("explain", "--latent", "40"), "the coder has latents 0 to 39"),
        (("features", "--latent", "4", "--search", "x"), "both --latent and --search"),
        (("features", "--html", "page.txt"), "--html 'page.txt'"),
        (("features", "--out", "page.txt"), ".json or .html"),
    ],
)
def test_what_cannot_be_carried_out_is_said_on_one_line(bathyscope, coders, text, arguments, fragment):  # noqa: F811
    name, *more = arguments
    assert_one_line(bathyscope("sae", name, coders, "--text", text, *more), fragment)


def test_a_folder_of_several_coders_or_none_is_refused(bathyscope, coders, text):  # noqa: F811
    for folder, fragment in (("many", "resid_post.1, resid_post.2"), ("none", "holds no coder")):
        done = bathyscope("sae", "features", coders.replace("coder", folder), "--text", text)
        assert_one_line(done, fragment)
        assert done.code == 2
    assert_one_line(bathyscope("sae", "features", coders, "--text", text + ".none"), "does not exist")
