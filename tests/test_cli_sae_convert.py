"""`bathyscope sae convert`: what is read is said, what is written computes the same, what is there is not lost."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import command_line
from bathyscope.cli import sae_convert
from bathyscope.sae import KeepAbove, KeepTop, Selection, SparseCoder, load_coder, save_coder
from bathyscope.sites import Site
from command_line import assert_one_line

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

D, N = 6, 20
X = torch.randn(30, D, generator=torch.Generator().manual_seed(9))


def coder(layer: int = 3, *, selection: Selection | None = None) -> SparseCoder:
    generator, site = torch.Generator().manual_seed(layer), Site("resid_post", layer)
    encoder, bias, decoder, out, centre = (
        torch.randn(*shape, generator=generator) for shape in ((N, D), (N,), (N, D), (D,), (D,))
    )
    return SparseCoder(
        encoder,
        bias,
        decoder,
        out,
        selection or KeepTop(4),
        centre=centre,
        site=site,
        target=site,
        model={"model": "m"},
    )


@pytest.mark.parametrize("to", ["bathyscope", "saelens", "sparsify"])
def test_a_coder_is_written_in_another_format_and_computes_the_same(bathyscope, tmp_path, to):
    source = save_coder(coder(), tmp_path / "source")
    done = bathyscope("sae", "convert", str(source), str(tmp_path / "out"), "--to", to, "--json")
    assert done.code == 0, done.err
    assert f"{source} is recognised as Bathyscope" in done.err
    assert ("was given other tensors" in done.err) == (to != "bathyscope")
    (record,) = done.json()["coders"]
    assert done.json()["kind"] == "sae_conversion" and done.json()["to"] == to
    assert (record["format"], record["path"], record["n_latents"]) == ("bathyscope", str(tmp_path / "out"), N)
    assert (record["site"], record["selection"], record["k"]) == ("resid_post.3", "top", 4)
    assert record["fingerprint"] == coder().fingerprint
    found = load_coder(tmp_path / "out")
    torch.testing.assert_close(found.encode(X).dense(), coder().encode(X).dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.reconstruct(X), coder().reconstruct(X), rtol=1e-5, atol=1e-5)


def test_the_table(bathyscope, tmp_path):
    save_coder(coder(), tmp_path / "coders" / "resid_post.3")
    save_coder(coder(12, selection=KeepAbove(torch.tensor(0.5))), tmp_path / "coders" / "resid_post.12")
    done = bathyscope("sae", "convert", str(tmp_path / "coders"), str(tmp_path / "out"), "--to", "saelens")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines() if "resid_post" in line]
    assert [line[:4] for line in lines] == [["bathyscope", f"resid_post.{layer}", "20", "6"] for layer in (3, 12)]
    assert "the 4 largest" in done.out and "what is above a threshold" in done.out
    for layer in (3, 12):
        assert load_coder(tmp_path / "out" / f"resid_post.{layer}").site == Site("resid_post", layer)


def test_what_the_file_does_not_say_is_said(bathyscope, tmp_path):
    state = {"bias": torch.zeros(D), "encoder.bias": torch.zeros(N)}
    state |= {"encoder.weight": torch.randn(N, D), "decoder.weight": torch.randn(D, N)}
    torch.save(state, tmp_path / "ae.pt")
    done = bathyscope("sae", "convert", str(tmp_path / "ae.pt"), str(tmp_path / "a"))
    assert done.code == 0 and "is recognised as dictionary_learning" in done.err
    assert "--site SITE" in done.err and "unknown" in done.out
    done = bathyscope("sae", "convert", str(tmp_path / "ae.pt"), str(tmp_path / "b"), "--site", "resid_post.7")
    assert done.code == 0 and "--site" not in done.err
    assert load_coder(tmp_path / "b").site == Site("resid_post", 7)
    target = ("--target", "mlp_out.7", "--json")
    done = bathyscope("sae", "convert", str(tmp_path / "b"), str(tmp_path / "c"), *target)
    assert (done.json()["coders"][0]["site"], done.json()["coders"][0]["target"]) == ("resid_post.7", "mlp_out.7")


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def test_another_coder_is_not_replaced_unasked(bathyscope, tmp_path):
    source, out = save_coder(coder(3), tmp_path / "source"), save_coder(coder(4), tmp_path / "out")
    before = files(out)
    for to in ("bathyscope", "saelens"):
        done = bathyscope("sae", "convert", str(source), str(out), "--to", to)
        assert done.code == 2 and "--force" in done.err and done.out == ""
        assert files(out) == before
    (out / "cfg.json").write_text("{")
    done = bathyscope("sae", "convert", str(source), str(out))
    assert done.code == 2 and "cannot be read" in done.err
    done = bathyscope("sae", "convert", str(source), str(out), "--force", "--to", "sparsify")
    assert done.code == 0, done.err
    assert set(files(out)) == {"cfg.json", "sae.safetensors"}


def test_the_same_coder_is_written_again(bathyscope, tmp_path):
    source = save_coder(coder(), tmp_path / "source")
    for site in ("resid_post.3", "resid_mid.3"):
        done = bathyscope("sae", "convert", str(source), str(tmp_path / "out"), "--to", "saelens", "--site", site)
        assert done.code == 0, done.err
    assert load_coder(tmp_path / "out").site == Site("resid_mid", 3)
    done = bathyscope("sae", "convert", str(source), str(source), "--site", "resid_mid.3")
    assert done.code == 0, "a site is written over the one that was wrong"
    assert load_coder(source).site == Site("resid_mid", 3)


def test_what_cannot_be_done_is_one_line(bathyscope, tmp_path):
    def line(*arguments: str, code: int, said: tuple[str, ...]) -> None:
        done = bathyscope("sae", "convert", *arguments)
        assert done.code == code and done.out == ""
        last = done.err.splitlines()[-1] + "\n"
        assert_one_line(type(done)(code, "", last), *said)

    source = str(save_coder(coder(selection=KeepAbove(torch.ones(N))), tmp_path / "source"))
    out = str(tmp_path / "out")
    line(source, out, "--to", "sparsify", code=2, said=("a threshold", "--to saelens"))
    line(source, out, "--to", "pickle", code=2, said=("pickle",))
    line(source, out, "--site", "somewhere", code=2, said=("'somewhere' is not a site",))
    line(str(tmp_path / "none"), out, code=1, said=("there is no",))
    line("hf:../x", out, code=2, said=("no address", "hf:google"))
    save_coder(coder(3), tmp_path / "two" / "resid_post.3")
    save_coder(coder(4), tmp_path / "two" / "resid_post.4")
    line(str(tmp_path / "two"), out, "--site", "resid_post.1", code=2, said=("2 coders",))
    (tmp_path / "empty").mkdir()
    line(str(tmp_path / "empty"), out, code=1, said=("no coder that is recognised",))
    (tmp_path / "a_file").write_text("x")
    line(source, str(tmp_path / "a_file" / "out"), code=1, said=("could not be made",))
    assert not Path(out).exists()


def test_settings_of_others_cannot_harm_the_terminal(bathyscope, tmp_path):
    source = save_coder(coder(), tmp_path / "source")
    cfg = json.loads((source / "cfg.json").read_text())
    (source / "cfg.json").write_text(json.dumps({**cfg, "site": "\x1b[2Jx"}))
    done = bathyscope("sae", "convert", str(source), str(tmp_path / "out"))
    assert done.code == 1 and "\x1b" not in done.err


def test_the_examples_of_the_help_run(bathyscope, tmp_path, monkeypatch):
    examples = re.findall(r"^ +bathyscope (sae convert .+)$", sae_convert.command.__doc__ or "", re.MULTILINE)
    assert len(examples) >= 2
    monkeypatch.chdir(tmp_path)
    save_coder(coder(), "coders/resid_post.8")
    for example in examples:
        done = bathyscope(*shlex.split(example))
        assert done.code == 0, done.err
