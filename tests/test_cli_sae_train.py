"""`bathyscope sae train`: coders in folders, what is printed, what an interruption costs, what is refused."""

import json
from pathlib import Path

import pytest

import command_line
from bathyscope import loading
from bathyscope.sae import load_coder
from bathyscope.sae.training import trainer
from bathyscope.sites import Site
from command_line import assert_one_line

tiny, bathyscope, home = command_line.tiny, command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "news.txt"
    words = "The boats of {} lay in the harbour and it was late in the year when {} came to the town by the sea. "
    path.write_text("\n\n".join(words.format(name, name) * 30 for name in ("Paris", "France", "they", "it", "king")))
    return str(path)


@pytest.fixture
def train(bathyscope, tiny: str, text: str, tmp_path: Path):
    """The command with what every test gives."""

    def run(*arguments: str, out: str = "coders"):
        given = ["--text", text] if "--text" not in arguments else []
        shared = ["--latents", "64", "--batch", "64", "--model", tiny, "--out", str(tmp_path / out)]
        return bathyscope("sae", "train", *given, *shared, *arguments)

    return run


def test_coders_lie_in_folders_of_their_own(train, tiny: str, tmp_path: Path) -> None:
    done = train("--site", "resid_post.1", "--site", "z.2", "--k", "4", "--epochs", "2", "--json")
    assert done.code == 0, done.err
    found = done.json()["coders"]
    assert [one["site"] for one in found] == ["resid_post.1", "z.2"]
    model = loading.load(tiny)
    for one in found:
        coder = load_coder(one["folder"])
        assert coder.check(model)[0] == Site.parse(one["site"]) and coder.n_latents == 64
        assert coder.training["held_out"] == 0.1 and coder.training["k"] == 4
        assert 0 < one["fvu"] < 1.5 and one["l0"] == pytest.approx(4, abs=0.01)
        course = json.loads(Path(one["folder"], "training.json").read_text())["course"]
        assert course[-1]["fvu"] == one["fvu"] and Path(one["folder"], "training.svg").stat().st_size > 1000
    assert not (tmp_path / "coders" / ".training").exists(), "what training needed is left"


def test_the_table_says_what_came_out(train) -> None:
    done = train("--site", "resid_post.1", "--sparsity", "batch-topk")
    assert done.code == 0 and "resid_post.1" in done.out and "FVU" in done.out
    assert "--held-out" in done.err


@pytest.mark.parametrize("keep", ["float32", "bfloat16", "nothing"])
def test_it_goes_on_where_it_stopped(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    arguments = ("--site", "resid_post.1", "--epochs", "3", "--keep", keep)
    assert train(*arguments, out="whole").code == 0
    steps = []

    def interrupted(run, stop, portion: int, batch: int, plain=trainer._Run.look_at) -> None:
        steps.append(batch)
        stop.soon = len(steps) == 7
        plain(run, stop, portion, batch)

    monkeypatch.setattr(trainer._Run, "look_at", interrupted)
    done = train(*arguments)
    assert done.code == 130 and (tmp_path / "coders" / ".training" / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "coders" / "resid_post.1").exists()
    again = train(*arguments)
    assert again.code == 0 and "going on from" in again.err
    found = [load_coder(tmp_path / name / "resid_post.1").fingerprint for name in ("whole", "coders")]
    assert found[0] == found[1]


def test_what_is_there_is_not_trained_again_unasked(train, tmp_path: Path) -> None:
    assert train("--site", "resid_post.1").code == 0
    before = load_coder(tmp_path / "coders" / "resid_post.1").fingerprint
    again = train("--site", "resid_post.1", "--seed", "1")
    assert_one_line(again)
    assert again.code == 2 and "--force" in again.err
    assert train("--site", "resid_post.1", "--seed", "1", "--force").code == 0
    assert load_coder(tmp_path / "coders" / "resid_post.1").fingerprint != before


def test_a_transcoder_and_weights_of_texts(train, text: str, tmp_path: Path) -> None:
    done = train("--site", "resid_mid.1", "--target", "mlp_out.1", "--skip", "--text", f"{text}:0.5", "--json")
    assert done.code == 0, done.err
    coder = load_coder(tmp_path / "coders" / "resid_mid.1")
    assert coder.is_transcoder and coder.skip is not None
    assert coder.training["activations"]["weights"] == [0.5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--site", "resid_post"), "resid_post.0"),
        (("--site", "resid_post.99"), "99"),
        (("--site", "nonsense.1"), "not a site"),
        (("--site", "pattern.1"), "they take vectors"),
        (("--site", "resid_post.1", "--site", "resid_post.1"), "once"),
        (("--site", "resid_post.1", "--k", "0"), "at least 1"),
        (("--site", "resid_post.1", "--coefficient", "0.1"), "--sparsity topk"),
        (("--site", "resid_post.1", "--sparsity", "l1", "--k", "3"), "topk"),
        (("--site", "resid_post.1", "--skip"), "target"),
        (("--site", "resid_post.1", "--site", "z.2", "--target", "mlp_out.1"), "several sites"),
        (("--site", "resid_post.1", "--text", "missing.txt"), "missing.txt"),
        (("--site", "resid_post.1", "--text", "missing.txt:0"), "weight"),
        (("--site", "resid_post.1", "--most-room", "0"), "GiB"),
        (("--site", "resid_post.1", "--learning-rate", "-1"), "--learning-rate 0.003"),
        (("--site", "resid_post.1", "--length", "100000"), "at most"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(train, arguments: tuple[str, ...], said: str) -> None:
    done = train(*arguments)
    assert done.code == 2 and done.out == ""
    assert said in done.err.splitlines()[-1]
    assert len([line for line in done.err.splitlines() if line.startswith("bathyscope: ")]) == 1


def test_a_folder_that_is_a_file_is_refused(train, tmp_path: Path) -> None:
    (tmp_path / "coders").write_text("mine")
    done = train("--site", "resid_post.1")
    assert done.code == 2 and "file" in done.err
    assert (tmp_path / "coders").read_text() == "mine"
