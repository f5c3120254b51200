"""The command line: its contract with other tools, bad input, and manners in a terminal and in a pipe."""

import dataclasses
import io
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console

import command_line
from bathyscope import checks, cli, loading, prompts, results
from bathyscope.circuits import FindChoices, MaskSettings, find_circuit, learned_circuit, read_examples
from bathyscope.cli import ladders, opening, options, terminal
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.sae import save_coder
from bathyscope.sites import residual_site
from bathyscope.steering import difference_of_means
from coders_for_tests import random_coder
from command_line import TEXT, Outcome, assert_one_line, process
from families import save_tiny

tiny, narrow, deep = command_line.tiny, command_line.narrow, command_line.deep
bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

COMMANDS = {command.name: command for command in typer.main.get_command(cli.app).commands.values()}
HELP_SECONDS = 1.0
"""Half of it is promised; a busy machine that tests for others is given twice that."""


# The contract


def test_json_is_the_one_thing_on_stdout_and_has_the_shape_that_other_tools_rely_on(bathyscope, tiny):
    done = bathyscope(
        "patchscope", TEXT, "--at", "last", "--prompt", "entity-description", "--layers", "all", "--new-tokens", "3",
        "--json", "--model", tiny,
    )  # fmt: skip
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    found = done.json()
    assert found["kind"] == "patchscope"
    assert found["provenance"]["models"][0]["model"] == tiny
    cells = found["cells"]
    assert [cell["source_layer"] for cell in cells] == [-1, 0, 1, 2, 3] == [cell["target_layer"] for cell in cells]
    assert [cell["source_site"] for cell in cells[:2]] == ["embed", "resid_post.0"]
    last = len(found["provenance"]["spec"]["source"]["tokens"]) - 1
    assert {(cell["source_position"], cell["source_token"]) for cell in cells} == {(last, " Wales")}
    assert all(isinstance(cell["text"], str) for cell in cells)


def test_json_in_a_process_of_its_own(tiny):
    """Nothing that a library prints while it is imported gets into the JSON."""
    done = process("patchscope", TEXT, "--layers", "embed", "--new-tokens", "1", "--json", "--model", tiny)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["cells"][0]["source_layer"] == -1


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("embed", [-1]), ("3", [3]), ("3,1", [3, 1]), ("0-2", [0, 1, 2]), ("embed,2-3", [-1, 2, 3]), ("-1", [-1])],
)
def test_forms_of_layers(bathyscope, tiny, layers, expected):
    done = bathyscope("patchscope", TEXT, "--layers", layers, "--new-tokens", "1", "--json", "--model", tiny)
    assert [cell["source_layer"] for cell in done.json()["cells"]] == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("last", [" Wales"]),
        ("0", ["Diana"]),
        ("-1", [" Wales"]),
        ("-2", [" of"]),
        ("Princess", [" Princess"]),
        ("of Wales", [" Wales"]),
    ],
)
def test_forms_of_positions(bathyscope, tiny, at, expected):
    done = bathyscope("patchscope", TEXT, "--at", at, "--layers", "0", "--new-tokens", "1", "--json", "--model", tiny)
    assert [cell["source_token"] for cell in done.json()["cells"]] == expected


def test_all_positions(bathyscope, tiny):
    done = bathyscope("patchscope", TEXT, "--at", "all", "--layers", "0", "--top", "1", "--json", "--model", tiny)
    cells = done.json()["cells"]
    assert "".join(cell["source_token"] for cell in cells) == TEXT
    assert [cell["source_position"] for cell in cells] == list(range(len(cells)))


def test_target_layers(bathyscope, tiny):
    def targets(given: str) -> list[tuple[int, int]]:
        done = bathyscope(
            "patchscope", TEXT, "--layers", "1-2", "--target-layer", given, "--top", "1", "--json", "--model", tiny
        )
        return [(cell["source_layer"], cell["target_layer"]) for cell in done.json()["cells"]]

    assert targets("same") == [(1, 1), (2, 2)]
    assert targets("0") == [(1, 0), (2, 0)]
    assert targets("all") == [(source, target) for source in (1, 2) for target in (-1, 0, 1, 2, 3)]


def test_what_is_asked_for_reaches_the_library(bathyscope, tiny):
    done = bathyscope(
        "patchscope", TEXT, "--text", "The largest city in Syria is", "--placeholder", " Syria", "--scale", "2.5",
        "--top", "4", "--layers", "0", "--dtype", "float64", "--attention", "eager", "--json", "--model", tiny,
    )  # fmt: skip
    found = done.json()["provenance"]
    spec = found["spec"]
    assert (spec["target"]["prompt"], spec["target"]["placeholder"]) == ("The largest city in Syria is", " Syria")
    assert (spec["mapping"], spec["factor"], spec["readout"], spec["k"]) == ("Scale", 2.5, "NextToken", 4)
    assert (found["models"][0]["dtype"], found["models"][0]["attention"]) == ("float64", "eager")


def test_another_model_may_speak(bathyscope, tiny, tmp_path):
    other = save_tiny("qwen2", tmp_path)
    done = bathyscope(
        "patchscope", TEXT, "--layers", "1", "--model", tiny, "--target-model", str(other), "--top", "1", "--json"
    )
    assert [model["family"] for model in done.json()["provenance"]["models"]] == ["llama", "qwen2"]


def test_chat_puts_the_prompt_into_the_template(bathyscope, narrow):
    done = bathyscope("patchscope", TEXT, "--layers", "0", "--chat", "--top", "1", "--json", "--model", narrow)
    assert done.json()["provenance"]["spec"]["target"]["prompt"].startswith("<bos>user: Syria")


@pytest.mark.parametrize("ending", [".json", ".html"])
def test_out_writes_a_file_beside_what_is_printed(bathyscope, tiny, tmp_path, ending):
    out = tmp_path / f"diana{ending}"
    done = bathyscope("patchscope", TEXT, "--layers", "0", "--top", "2", "--out", str(out), "--json", "--model", tiny)
    assert done.code == 0 and done.json()["kind"] == "patchscope"
    assert done.err == f"saved to {out}\n"
    if ending == ".json":
        assert json.loads(results.Result.load(out).to_json())["cells"] == done.json()["cells"]
    else:
        assert "Princess" in out.read_text("utf-8") and "<script" not in out.read_text("utf-8")


def test_the_choices_of_the_command_line_are_those_of_the_library():
    def choices(option: object) -> set[str]:
        literal = next(part for part in typing.get_args(typing.get_args(option)[0]) if typing.get_args(part))
        return set(typing.get_args(literal))

    assert choices(options.PromptName) == set(prompts.PROMPTS)
    assert choices(options.Dtype) == set(loading.DTYPES)


# What a person sees


def test_the_table_has_layers_down_positions_across_and_the_control(bathyscope, tiny):
    done = bathyscope("patchscope", TEXT, "--at", "all", "--layers", "embed,0-1", "--new-tokens", "2", "--model", tiny)
    assert done.code == 0 and done.err == ""
    assert re.search(r"^ layer +0 'Diana' +1 ", done.out, re.MULTILINE)
    assert [line.split()[0] for line in done.out.splitlines() if re.match(r" (-1|\d+) ", line)][:3] == ["-1", "0", "1"]
    assert "nothing written: " in done.out
    assert "Layer -1 is the embedding; layers count from 0." in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_one_source_layer_and_many_target_layers_are_one_ladder(bathyscope, tiny):
    done = bathyscope("patchscope", TEXT, "--layers", "1", "--target-layer", "all", "--top", "2", "--model", tiny)
    assert "written at   the likeliest next tokens" in done.out
    assert [line.split()[0] for line in done.out.splitlines() if "%" in line] == ["-1", "0", "1", "2", "3"]


HOSTILE = "\x1b[31mred\x1b[0m \x9b2J \x07bell \r over [bold]markup[/bold] [/] :boom: \u202ereversed \u2028line\nnext"


def test_what_a_model_says_cannot_harm_the_terminal(bathyscope, tiny, tmp_path):
    out = tmp_path / "x.json"
    bathyscope(
        "patchscope", TEXT, "--at", "all", "--layers", "0-1", "--new-tokens", "1", "--out", str(out), "--model", tiny
    )
    result = results.Result.load(out)
    assert isinstance(result, PatchscopeResult)
    for cells in (result.cells, result.cells[:1]):
        hostile = tuple(dataclasses.replace(cell, text=HOSTILE, source_token=HOSTILE) for cell in cells)
        printed = io.StringIO()
        console = Console(file=printed, width=400, force_terminal=True, markup=False, emoji=False, no_color=True)
        ladders.show(dataclasses.replace(result, cells=hostile, unpatched=HOSTILE), console)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())  # rich's own bold and dim
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", plain)
        assert "\\x1b[31mred" in plain and "[bold]markup[/bold] [/] :boom:" in plain and "\\u202e" in plain
        assert "\x1b[31m" not in printed.getvalue()


def test_clean_keeps_what_scripts_and_emoji_need():
    assert terminal.clean("naïve 東京 क्\u200dष 👩\u200d🔬") == "naïve 東京 क्\u200dष 👩\u200d🔬"


def test_a_terminal_without_unicode_gets_question_marks(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    terminal.out().print(terminal.cell("東京"))
    sys.stdout.flush()
    assert written.getvalue() == b"??\n"


def test_markup_in_a_prompt_is_text(bathyscope, tiny):
    done = bathyscope("patchscope", "[red]Diana[/] [/red]", "--layers", "0", "--new-tokens", "1", "--model", tiny)
    assert done.code == 0 and "'[red]Diana[/] [/red]'" in done.out
    refused = bathyscope("patchscope", "[red]Diana[/red]", "--at", "[/blue]", "--model", tiny)
    assert_one_line(refused, "position '[/blue]' was given")


@pytest.mark.usefixtures("deep")
def test_the_demo_prints_one_table_and_writes_a_page(bathyscope, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = bathyscope("demo")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("what the model says") == 1
    for name in ("Diana, Princess of Wales", "New York City", "Alexander the Great", "nothing written"):
        assert re.search(rf"^ {name} ", done.out, re.MULTILINE)
    page = Path("bathyscope-demo.html").read_text("utf-8")
    assert page.count("<table") == 3 and "Alexander the Great" in page
    following = re.findall(r"^  (bathyscope .+)$", done.out, re.MULTILINE)
    assert len(following) >= 2
    for line in following:
        assert bathyscope(*shlex.split(line)[1:]).code == 0


@pytest.mark.usefixtures("deep")
def test_a_demo_without_room_for_its_page_still_prints_its_table(bathyscope, tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> typing.NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    done = bathyscope("demo")
    assert done.code == 1 and "Alexander the Great" in done.out
    assert_one_line(done, "bathyscope-demo.html could not be written")


def test_neighbouring_layers_that_say_the_same_are_one_rung(bathyscope, tiny, tmp_path):
    out = tmp_path / "x.json"
    bathyscope("patchscope", TEXT, "--layers", "embed,0-3", "--new-tokens", "1", "--out", str(out), "--model", tiny)
    result = results.Result.load(out)
    assert isinstance(result, PatchscopeResult)
    said = [": City, New", " City, Old", ", 12, 12", ", 12, 12", ": City"]
    cells = tuple(dataclasses.replace(cell, text=text) for cell, text in zip(result.cells, said, strict=True))
    found = ladders.rungs(dataclasses.replace(result, cells=cells))
    assert [(rung.layers, rung.text, rung.spoke) for rung in found] == [
        ("embedding to 0", "City", True),
        ("1-2", ", 12, 12", False),
        ("3", "City", True),
    ]


def test_doctor_prints_each_check(bathyscope, tiny):
    done = bathyscope("doctor", tiny)
    assert done.code == 0 and "0 failed" in done.out and "resid_post of each block" in done.out
    found = bathyscope("doctor", tiny, "--json").json()
    assert (found["kind"], found["passed"]) == ("doctor", True)
    assert {check["passed"] for check in found["checks"]} == {True, None}


def test_doctor_examines_a_model_that_fails_and_says_so_by_its_exit_code(bathyscope, tiny, monkeypatch):
    wrong = checks.Check("a block is where it should be", False, "largest relative difference 3.0e-01")
    monkeypatch.setattr(checks, "all_checks", lambda model: [wrong])
    done = bathyscope("doctor", tiny)
    assert done.code == 1 and "FAIL" in done.out and "1 failed" in done.out
    assert bathyscope("doctor", tiny, "--json").json()["passed"] is False


def test_models_says_what_there_is_and_loads_nothing(bathyscope, tmp_path, monkeypatch):
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    done = bathyscope("models")
    assert done.code == 0 and "not here yet" in done.out and "qwen3_moe" in done.out
    found = bathyscope("models", "--json").json()
    assert found["kind"] == "models" and found["embedded"]["cached"] is False
    assert {"llama", "gpt2"} <= set(found["families"])
    assert list(tmp_path.iterdir()) == []


# Bad input: one line, the right exit code, no traceback

WITHOUT_A_MODEL = [
    ([""], "an empty prompt was given"),
    ([TEXT, "--seed", "-1"], "'--seed': it must be at least 0. Try"),
    ([TEXT, "--seed", "one"], "'--seed': a whole number is needed. Try"),
    ([TEXT, "--layers", "five"], "'five' is not a choice of layers"),
    ([TEXT, "--layers", "7-3"], "write the lower layer first. Try: 3-7"),
    ([TEXT, "--layers", "0-99999999999"], "no model has so many layers"),
    ([TEXT, "--target-layer", "none"], "'none' is not a choice of layers"),
    ([TEXT, "--prompt", "poetry"], "'poetry' is not one of 'entity-description'"),
    ([TEXT, "--prompt", "bare", "--text", "a x"], "both --prompt bare and --text"),
    ([TEXT, "--text", "hello", "--placeholder", "q"], "the placeholder 'q' is not in"),
    ([TEXT, "--text", "hello", "--placeholder", ""], "the placeholder '' is not in"),
    ([TEXT, "--placeholder", "q"], "without --text"),
    ([TEXT, "--new-tokens", "0"], "0 new tokens"),
    ([TEXT, "--new-tokens", "ten"], "'--new-tokens'"),
    ([TEXT, "--top", "0"], "--top 10"),
    ([TEXT, "--top", "3", "--new-tokens", "3"], "either writes a text or ranks"),
    ([TEXT, "--mapping", "twist"], "--mapping twist was given; it is neither a name"),
    ([TEXT, "--mapping", "norm"], "nor a file that is there. Try: --mapping norm-match"),
    ([TEXT, "--mapping", "scale"], "without --scale"),
    ([TEXT, "--mapping", "scale:two"], "--mapping scale:two was given; a finite number"),
    ([TEXT, "--mapping", "norm-match", "--scale", "2"], "both --mapping norm-match and --scale"),
    ([TEXT, "--scale", "inf"], "a finite number"),
    ([TEXT, "--dtype", "int8"], "'int8' is not one of 'float32'"),
    ([TEXT, "--model", ""], "an empty model name"),
    ([TEXT, "--revision", "main"], "without --model"),
    ([TEXT, "--out", "diana.txt"], "must end in .json or .html. Try: --out diana.json"),
    ([TEXT, "--out", "nowhere/diana.json"], "there is no folder 'nowhere'"),
    (["\udcff"], "arguments are text in UTF-8"),
    ([TEXT, "--colour"], "No such option: --colour"),
    ([], "Missing argument 'TEXT'. Try: bathyscope patchscope --help"),
]


@pytest.mark.parametrize(("arguments", "fragment"), WITHOUT_A_MODEL)
def test_bad_input_is_refused_before_any_model_is_loaded(bathyscope, monkeypatch, arguments, fragment):
    def load(*args: object, **options: object) -> typing.NoReturn:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(opening, "embedded_path", load)
    done = bathyscope("patchscope", *arguments)
    assert (done.code, done.out) == (2, "")
    assert_one_line(done, fragment)


WITH_A_MODEL = [
    (["--layers", "4"], "layer 4 does not exist; this model has layers -1 (the embedding) and 0 to 3"),
    (["--target-layer", "9"], "layer 9 does not exist"),
    (["--at", "77"], "position 77 does not exist"),
    (["--at", "Charles"], "it is not there; the tokens are 0 'Diana', 1 ','"),
    (["--at", "a"], "it is there 3 times; the tokens are 0 'Diana', 1 ','"),
    (["--at", ""], "position '' was given"),
    (["--new-tokens", "500"], "reads at most 128"),
    (["--prompt", "selfie"], "has no chat template"),
    (["--text", "The Princess", "--placeholder", "Prin"], "'Prin' is a part of the token ' Princess'"),
]


@pytest.mark.parametrize(("arguments", "fragment"), WITH_A_MODEL)
def test_bad_input_that_only_the_model_can_tell(bathyscope, tiny, arguments, fragment):
    done = bathyscope("patchscope", TEXT, *arguments, "--model", tiny)
    assert (done.code, done.out) == (2, "")
    assert_one_line(done, fragment)


def test_a_prompt_longer_than_the_context(bathyscope, tiny):
    done = bathyscope("patchscope", "the sea and the city " * 60, "--model", tiny)
    assert done.code == 2
    assert_one_line(done, "reads at most 128")


def test_models_of_two_widths(bathyscope, tiny, narrow):
    done = bathyscope("patchscope", TEXT, "--model", tiny, "--target-model", narrow)
    assert done.code == 2
    assert_one_line(done, "(48,)", "(32,)")


def test_models_that_cannot_be_had(bathyscope, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    for name in ("nobody/nothing", str(tmp_path / "empty"), str(tmp_path / "damaged"), str(tmp_path / "missing")):
        done = bathyscope("patchscope", TEXT, "--model", name)
        assert (done.code, done.out) == (2, "")
        assert_one_line(done, name, "Try: bathyscope models")
    done = bathyscope("doctor", str(tmp_path / "bert"))
    assert done.code == 2
    assert_one_line(done, "family 'bert'", "llama")


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(bathyscope, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = bathyscope("patchscope", TEXT, "--out", str(tmp_path / "x.json"))
    assert done.code == 1
    assert_one_line(done, "cannot be written to")


def test_a_full_disk_does_not_lose_what_was_found(bathyscope, tiny, tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> typing.NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    out = tmp_path / "x.html"
    done = bathyscope("patchscope", TEXT, "--layers", "0", "--top", "1", "--model", tiny, "--out", str(out), "--json")
    assert done.code == 1 and done.json()["kind"] == "patchscope" and not out.exists()
    assert_one_line(done, "No space left on device")


@pytest.mark.parametrize("arguments", [["--debug", "patchscope", ""], ["patchscope", "", "--debug"]])
def test_debug_adds_the_traceback_wherever_it_stands(arguments):
    done = process(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Traceback") and done.stderr.splitlines()[-1].startswith(
        "bathyscope: an empty prompt"
    )


def test_an_unforeseen_error_is_one_line_as_well(bathyscope, tiny, monkeypatch):
    def fail(*args: object, **options: object) -> typing.NoReturn:
        raise RuntimeError("two\nlines [red]")

    monkeypatch.setattr(loading, "load", fail)
    done = bathyscope("doctor", tiny)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "bathyscope: internal error: RuntimeError: two lines [red]; run again with --debug to see where\n"
    )


def test_an_interrupt_is_one_short_line(bathyscope, tiny, monkeypatch):
    def interrupt(*args: object, **options: object) -> typing.NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupt)
    assert bathyscope("doctor", tiny) == Outcome(130, "", "bathyscope: stopped\n")


# A good citizen among processes


def test_help_is_quick_and_imports_neither_torch_nor_transformers():
    def computed() -> float:
        """Seconds that processes which have ended were computing; waiting for others is not theirs."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = computed()
    done = process("--help")
    seconds = computed() - before
    assert done.returncode == 0 and "patchscope" in done.stdout
    assert seconds < HELP_SECONDS, f"{seconds:.2f} s"
    program = "import sys, bathyscope.cli; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.strip() == "[]"


def test_version():
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "") and re.fullmatch(r"bathyscope \d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize("arguments", [["--version"], ["models"]])
def test_a_reader_that_goes_away_is_met_with_silence(arguments):
    command = [sys.executable, "-m", "bathyscope", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


# Help


GROUPS = ("mapping", "sae", "circuit")
SHOWN = {
    **COMMANDS,
    **{f"{group} {name}": one for group in GROUPS for name, one in COMMANDS[group].commands.items()},
}
"""Commands whose examples are run as they stand."""


def _examples() -> Iterator[str]:
    for command in SHOWN.values():
        yield from re.findall(r"^ +(bathyscope .+)$", command.help or "", re.MULTILINE)


def test_every_command_has_examples():
    named = list(_examples())
    for name in SHOWN:
        assert sum(f"{example} ".startswith(f"bathyscope {name} ") for example in named) >= 2, name


@pytest.fixture
def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bathyscope serve` prints its address, opens no browser, and is done."""
    from bathyscope.web import assets, server

    monkeypatch.setattr(assets, "assets", dict)
    monkeypatch.setattr(server.WebServer, "run", lambda self, started: (started(), self._socket.close()))
    monkeypatch.setattr(typer, "launch", lambda _address: 0)


@pytest.mark.usefixtures("deep", "ends_at_once")
@pytest.mark.parametrize("example", list(_examples()))
def test_the_examples_of_the_help_run(bathyscope, tmp_path, monkeypatch, example):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bathyscope.circuits.finding.learned_circuit", _learned_quickly)
    _write_what_examples_name(tmp_path)
    before = set(tmp_path.iterdir())
    done = bathyscope(*shlex.split(example)[1:])
    assert done.code == 0, done.err
    if "--json" in example:
        assert done.json()["kind"]
    if "--out" in example:
        assert {path.name for path in set(tmp_path.iterdir()) - before} <= {example.split("--out ")[1].split()[0]}
        assert (tmp_path / example.split("--out ")[1].split()[0]).exists()


def _learned_quickly(stage, attributions, penalty, _settings, **options):
    return learned_circuit(stage, attributions, penalty, MaskSettings(candidates=50, steps=2), **options)


def _write_what_examples_name(folder: Path) -> None:
    """The text, the lens that was fitted on it, a direction, a sparse coder, pairs, their circuit, and labels."""
    (folder / "news.txt").write_text("\n\n".join(["The king of France lives in Paris by the sea. " * 60] * 4))
    model = loading.load()
    last = model.site(f"resid_post.{model.n_layers - 1}")
    terms = {(residual_site(layer), last): Term(torch.eye(model.d_model)) for layer in range(-1, model.n_layers)}
    identity = model_identity(model)
    Affine(terms, Fit("tuned-lens", identity, identity, n_samples=1)).save(folder / "tuned.safetensors")
    difference_of_means(model, ["It is warm"], ["It is cold"], 8).save(folder / "warm.json")
    coder = random_coder(
        model.d_model, n_latents=1024, site=model.site("resid_post.8"), target=model.site("resid_post.8")
    )
    save_coder(coder, folder / "coders" / "resid_post.8")
    pair = {"clean": "Paris is", "corrupted": "Rome is", "answer": " in", "wrong_answer": " the"}
    other = {"clean": "Rome is", "corrupted": "Paris is", "answer": " the", "wrong_answer": " in"}
    for name in ("pairs", "others"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, (pair, other))))
    asked, placed = read_examples(model, folder / "pairs.jsonl"), {folder / "coders" / "resid_post.8": coder}
    find_circuit(model, asked, placed, FindChoices(nodes=20, penalties=(), steps=2)).save(folder / "circuit.json")
    (folder / "mine.labels.json").write_text('{"resid_post.8/3": "plural subject"}')


@pytest.mark.parametrize("command", SHOWN.values(), ids=list(SHOWN))
def test_every_option_has_help_and_names_only_options_that_exist(command):
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    for option in command.params:
        assert option.help, option.name
        assert set(re.findall(r"--[a-z][a-z-]+", option.help)) <= known
        if option.param_type_name == "option" and option.opts[0] not in ("--json", "--debug", "--next-token"):
            assert option.opts[0] in option.help, f"{option.opts[0]} has no example"
