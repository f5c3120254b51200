"""The files that `bathyscope serve` is started with: what belongs together, and what is refused beforehand."""

import shutil
from pathlib import Path

import pytest

import command_line
from agreement_model import agreement_model
from bathyscope.cli.served_files import ServedFiles
from bathyscope.errors import UsageError
from bathyscope.web.opened import names_of
from circuits_by_hand import circuit_by_hand
from command_line import assert_one_line
from conftest import tiny_model
from served_for_tests import AGREEMENT, save_files

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_files(tmp_path_factory.mktemp("files"))


def test_each_file_is_of_the_model_that_it_was_made_from(paths):
    files = ServedFiles([paths["circuit"]], None, [str(paths["coder"])], [paths["features"]])
    assert files.models() == ["gpt2-agreement"]
    loaded = {"tiny": tiny_model(), AGREEMENT: agreement_model()}
    (circuit,), (coder,) = files.circuits(loaded).values(), files.coders(loaded).values()
    assert circuit.model == coder.model == AGREEMENT and coder.readings is not None
    with pytest.raises(UsageError, match="was made in gpt2-agreement"):
        files.circuits({"tiny": tiny_model()})


def test_features_are_browsed_without_their_coder_and_another_coder_does_not_get_them(paths):
    loaded = {AGREEMENT: agreement_model()}
    (alone,) = ServedFiles(None, None, None, [paths["features"]]).coders(loaded).values()
    assert alone.coder is None and alone.model is None and alone.drawn
    other = str(paths["coders"] / "resid_post.0")
    found = ServedFiles(None, None, [other], [paths["features"]]).coders(loaded)
    assert [(one.coder is not None, one.readings is not None) for one in found.values()] == [
        (True, False),
        (False, True),
    ]


def test_coders_that_were_moved_are_found_where_it_is_said(paths, tmp_path):
    shutil.copytree(paths["coders"], tmp_path / "moved")
    found = ServedFiles([paths["circuit"]], tmp_path / "moved", None, None).circuits({AGREEMENT: agreement_model()})
    assert [one.folder for one in found.values()] == [str(tmp_path / "moved")]


def test_a_graph_without_coders_is_looked_at_only(tmp_path):
    circuit_by_hand().save(tmp_path / "a.json")
    (found,) = ServedFiles([tmp_path / "a.json"], None, None, None).circuits({"tiny": tiny_model()}).values()
    assert found.model is None and found.pairs == 0 and found.drawn


def test_names_can_stand_in_an_address():
    odd = ["../../etc/passwd", "a/\u202e\x00.json", "b/\u202e.json", "x" * 500, "...", "c d.json"]
    names = names_of(odd)
    assert len(set(names)) == len(odd) and all(name.isascii() and "/" not in name for name in names)
    assert max(map(len, names)) <= 80 and not {".", ".."} & set(names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--circuit", "none.json"), "could not be read"),
        (("--features", "none.json"), "could not be read"),
        (("--features", "circuit.json"), "features are needed"),
        (("--circuit", "features.json"), "a circuit or an attribution graph is needed"),
        (("--coder", "none"), "none"),
        (("--coders", "coders"), "without a circuit"),
        (("--circuit", "circuit.json", "--coders", "elsewhere"), "elsewhere"),
    ],
)
def test_wrong_files_are_told_before_a_model_is_loaded(bathyscope, paths, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bathyscope.web.assets.assets", dict)
    monkeypatch.setattr("bathyscope.cli.serve.open_model", lambda *_args, **_options: pytest.fail("a model was loaded"))
    shutil.copy(paths["circuit"], "circuit.json")
    for ending in (".json", ".safetensors"):
        shutil.copy(paths["features"].with_suffix(ending), f"features{ending}")
    done = bathyscope("serve", "--no-browser", *arguments)
    assert done.code == 2
    assert_one_line(done, said)
