"""Every example of the README, of docs/ and of the docstrings, run as it stands.

Where the embedded model is at hand they run on it, and what they print is compared with what is printed below them.
Everywhere they also run on a stand-in: a random model with as many layers and heads, whose words mean nothing, so that
only whether they run is tested.

In the Markdown, a block of `text` right below one of `python` is what that prints, and a line that begins with `$` in a
block of `console` is a command, with what it prints below it. `...` stands for anything. A block below the comment
`<!-- needs: ... -->` needs something that tests must not fetch; it is only read.
"""

import contextlib
import doctest
import importlib
import io
import os
import pkgutil
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import CodeType

import pytest
import torch
import transformers

import bathyscope
from bathyscope import cli, loading
from bathyscope.cli import opening
from bathyscope.embedded import EMBEDDED_NAME, embedded_status
from bathyscope.model import Model
from tokenizers_for_tests import BOS_ID, CHAT_TEMPLATE, EOS_ID, PAD_ID, VOCAB_SIZE, tiny_tokenizer

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(bathyscope.__path__, "bathyscope.")
    if not found.name.endswith("__main__")
)
AT_HAND = embedded_status().cached or "BATHYSCOPE_WHEEL" in os.environ
BOTH = [
    "stand-in",
    pytest.param(
        "embedded",
        marks=[pytest.mark.embedded, pytest.mark.skipif(not AT_HAND, reason="the embedded model is not in the cache")],
    ),
]
BUILT = (Path(bathyscope.__file__).parent / "web" / "dist").is_dir()
"""Whether the web app's files are there, which `make ui` builds and `make test` needs no Node for."""
LOAD = loading.load
"""The function itself, before any test puts another in its place."""


HOME = os.environ.get("BATHYSCOPE_HOME")
"""Where the embedded model is, before any test moves it away; None for the usual place."""


@cache
def embedded(**options: object) -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BATHYSCOPE_HOME", raising=False)
        if HOME is not None:
            patch.setenv("BATHYSCOPE_HOME", HOME)
        return LOAD(**options)  # type: ignore[arg-type]


@cache
def stand_in(attention: str | None = None) -> Model:
    """As many layers and heads as the embedded model has, of the smallest size."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=72,
        intermediate_size=96,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=BOS_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention or "sdpa")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return bathyscope.wrap(hf, tokenizer, name=EMBEDDED_NAME)


@pytest.fixture(params=BOTH)
def real(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Whether `bathyscope.load()` gives the embedded model; files go into a folder of the test's own."""
    is_real = request.param == "embedded"

    def load(name: str | None = None, **options: object) -> Model:
        if name is not None:
            return LOAD(name, **options)  # type: ignore[arg-type]
        wanted = {key: value for key, value in options.items() if value is not None and key != "verify"}
        return embedded(**wanted) if is_real else stand_in(options.get("attention"))  # type: ignore[arg-type]

    if is_real:
        embedded()  # now, since transformers draws a bar while it loads
    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(opening, "embedded_path", lambda: None)
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return is_real


# The blocks of a page


@dataclass(frozen=True)
class Block:
    """One fenced block of Markdown.

    Args:
        page: the file.
        line: the line of its fence.
        kind: the word after the fence.
        text: what is inside.
        needs: what it needs that tests do not have.
        printed: for Python, the block of text right below it.
    """

    page: str
    line: int
    kind: str
    text: str
    needs: str = ""
    printed: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def code(self) -> CodeType:
        return compile("\n" * self.line + self.text, self.page, "exec")

    def commands(self) -> list[tuple[str, str]]:
        """Each command with what is printed below it."""
        assert self.text.startswith("$ "), f"{self} shows no command"
        parts = re.split(r"^\$ (.*(?:\\\n.*)*)\n", self.text, flags=re.MULTILINE)[1:]
        return [
            (command.replace("\\\n", " "), printed) for command, printed in zip(parts[::2], parts[1::2], strict=True)
        ]


FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>.+?) -->\n+)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("kind")) + 1
        if match["kind"] == "text" and found and found[-1].kind == "python" and not text[end : match.start()].strip():
            found[-1] = replace(found[-1], printed=match["text"])
        found.append(Block(page, line, match["kind"], match["text"], match["needs"] or ""))
        end = match.end()
    return found


def same(wanted: str, got: str) -> bool:
    wanted, got = ("\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n" for text in (wanted, got))
    return doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)


@contextlib.contextmanager
def printed() -> Iterator[io.BytesIO]:
    """What is printed meanwhile, to stdout and stderr together as a terminal shows it."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8", newline="\n", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield raw
    stream.detach()


def run_python(block: Block, names: dict[str, object], compare: bool) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block.code(), names)
    if compare and block.printed is not None:
        assert same(block.printed, out.getvalue()), f"{block} prints\n{out.getvalue()}"


def run_console(block: Block, compare: bool) -> None:
    for command, wanted in block.commands():
        words = shlex.split(command)
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+(?: [\w-]+)*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            assert words[1] in " ".join(targets).split(), f"{block}: there is no make {words[1]}"
        elif words[0] == "bathyscope":
            # The command line turns warnings off and sets variables for the whole process.
            with printed() as raw, warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "environ", os.environ.copy())
                code = cli.main(words[1:])
            got = raw.getvalue().decode()
            fails = wanted.startswith("bathyscope: ")
            assert (code != 0) == fails, f"{block}: {command} ends with {code} and prints\n{got}"
            if compare and wanted.strip():
                assert same(wanted, got), f"{block}: {command} prints\n{got}"
        else:
            assert words[0] in ("git", "cd", "pip"), f"{block}: nobody runs {words[0]}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.kind in ("python", "console") for block in blocks(page))]
)
def test_a_page_runs_from_top_to_bottom(page: str, real: bool):
    if page == "docs/web.md" and not BUILT:
        pytest.skip("the web app's files are not built: make ui")
    names: dict[str, object] = {"__name__": page}
    for block in blocks(page):
        if block.needs:
            _ = block.code() if block.kind == "python" else block.commands()
        elif block.kind == "python":
            run_python(block, names, compare=real)
        elif block.kind == "console":
            run_console(block, compare=real)


def test_every_block_says_what_it_is():
    kinds = {"python", "console", "text", "bibtex", "json"}
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        assert text.count("\n```") + text.startswith("```") == 2 * len(blocks(page)), f"{page} has a fence left open"
        assert {block.kind for block in blocks(page)} <= kinds, page


def test_a_block_that_prints_something_else_fails(real: bool):
    right = Block("page", 1, "python", "print(1 + 1)\n", printed="2\n")
    run_python(right, {}, compare=True)
    with pytest.raises(AssertionError, match="page:1 prints"):
        run_python(replace(right, printed="3\n"), {}, compare=True)
    with pytest.raises(ZeroDivisionError):
        run_python(replace(right, text="1 / 0\n"), {}, compare=False)
    run_console(Block("page", 1, "console", "$ bathyscope --version\nbathyscope ...\n"), compare=True)
    for text in (
        "$ bathyscope --version\nbathyscope: 99\n",
        "$ bathyscope --version\nversion 99\n",
        "$ bathyscope patchscope hello --layer 3\n",
        "$ make nothing\n",
        "$ curl somewhere\n",
    ):
        with pytest.raises(AssertionError):
            run_console(Block("page", 1, "console", text), compare=True)


def test_a_link_leads_somewhere():
    """Links between files, and to headings in them."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
            if re.match(r"https?:", target):
                continue
            name, _, heading = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), f"{page} links to {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert heading in anchors, f"{page} links to {target}"


# Docstrings


class Anything(doctest.OutputChecker):
    """Takes every output for the right one."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return True


def examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", [name for name in MODULES if examples(name)])
def test_the_examples_of_a_module_run(module: str, real: bool, monkeypatch: pytest.MonkeyPatch):
    runner = doctest.DocTestRunner(None if real else Anything(), optionflags=doctest.NORMALIZE_WHITESPACE)
    told: list[str] = []
    for test in examples(module):
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "environ", os.environ.copy())
            runner.run(test, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)


# The picture


@pytest.mark.embedded
@pytest.mark.skipif(not AT_HAND, reason="the embedded model is not in the cache")
@pytest.mark.parametrize("real", ["embedded"], indirect=True)
def test_the_picture_of_the_readme_is_what_its_command_prints(real: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    picture = importlib.import_module("picture")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"](docs/{picture.FILE})" in readme
    assert "`python docs/picture.py`" in readme
    with printed(), warnings.catch_warnings():
        drawn = picture.draw()
    assert drawn == (ROOT / "docs" / picture.FILE).read_text("utf-8"), "make it again: python docs/picture.py"
    sys.modules.pop("picture")


def test_the_picture_asks_for_nothing_from_elsewhere():
    drawn = (ROOT / "docs/ladder.svg").read_text("utf-8")
    assert not re.search(r"@import|url\((?!#)|<script|href\s*=", drawn)
    assert set(re.findall(r"https?://[^\s\"']+", drawn)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}


def test_a_test_that_a_page_names_is_there():
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", (ROOT / page).read_text("utf-8"))}
    assert len(named) > 40
    assert named - there == set()


def test_a_file_that_a_page_names_is_there():
    for page in PAGES:
        for name in re.findall(r"`((?:tests|docs|src|bench)/[\w/.]*)`", (ROOT / page).read_text("utf-8")):
            assert (ROOT / name).exists(), f"{page} names {name}"
