"""What tests of the command line share: it is run in this process on tiny models, or in one of its own."""

import dataclasses
import json
import subprocess
import sys
import typing
from collections.abc import Callable

import pytest
import transformers

from bathyscope import cli, loading
from bathyscope.cli import opening
from families import FAMILIES, save_tiny
from tokenizers_for_tests import tiny_tokenizer

TEXT = "Diana, Princess of Wales"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored goes to a folder of the tests' own."""
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of another width, with a tokenizer that has a chat template."""
    folder = tmp_path_factory.mktemp("narrow")
    family = FAMILIES["gpt2"]
    dataclasses.replace(family, settings={**family.settings, "n_embd": 32, "hidden_size": 32}).build().save_pretrained(
        folder
    )
    tiny_tokenizer(bos=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def deep(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is asked for, a tiny one of twelve layers is loaded."""
    folder = tmp_path_factory.mktemp("deep")
    family = FAMILIES["llama"]
    dataclasses.replace(family, settings={**family.settings, "num_hidden_layers": 12}).build().save_pretrained(folder)
    tiny_tokenizer(bos=True).save_pretrained(folder)
    model = loading.load(folder)
    monkeypatch.setattr(loading, "load", lambda *args, **options: model)
    monkeypatch.setattr(loading, "check_folder", lambda name: None)
    monkeypatch.setattr(opening, "embedded_path", lambda: folder)


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> dict[str, typing.Any]:
        return json.loads(self.out)


@pytest.fixture
def bathyscope(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command line in this process; what libraries write past Python is seen as well."""
    monkeypatch.setenv("COLUMNS", "100")
    # These tests have imported transformers before the command line could ask it for silence.
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", False)

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = cli.main(arguments)
        return Outcome(code, *capfd.readouterr())

    return run


def process(*arguments: str, **settings: typing.Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bathyscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)


def assert_one_line(outcome: Outcome, *fragments: str) -> None:
    assert outcome.err.startswith("bathyscope: ") and outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err and "internal error" not in outcome.err
    for fragment in fragments:
        assert fragment in outcome.err
