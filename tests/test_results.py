"""Results: saved and loaded to the last bit, refused when damaged, and shown without letting their texts act."""

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bathyscope import PatchscopeResult, Result, Source, Target, patchscope
from bathyscope.errors import StorageError, UsageError
from bathyscope.mappings import Scale
from bathyscope.prompts import custom
from bathyscope.readouts import Candidate, Generate, NextToken
from bathyscope.results import SCHEMA_VERSION
from conftest import tiny_model

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "</td></table></div></body>",
    "<!-- ",
    "</style><style>@import 'https://example.org/a.css';",
    "javascript:alert(3)",
    "&lt;b&gt; & &amp;",
    "line\nline\ttab",
    "\u202eright to left\u202c 👩‍🔬 é 東京 \u2028",
]


@pytest.fixture(scope="module")
def ranked() -> PatchscopeResult:
    source = Source(tiny_model("llama"), "Diana, Princess of Wales", position="all", layer="embed,0-2")
    return patchscope(source, Target(prompt=custom("The largest city in x")), readout=NextToken(3))


@pytest.fixture(scope="module")
def told() -> PatchscopeResult:
    source = Source(tiny_model("llama"), "Diana, Princess of Wales", layer="all")
    return patchscope(source, Target(prompt=custom("hello x")), mapping=Scale(0.5), readout=Generate(4))


@pytest.fixture(scope="module")
def hostile(told: PatchscopeResult) -> PatchscopeResult:
    """Every text that a model, a file or a person could have written, made hostile."""
    texts = [*HOSTILE, *HOSTILE][: len(told.cells)]
    cells = tuple(replace(cell, text=text, source_token=text) for cell, text in zip(told.cells, texts, strict=False))
    origin = json.loads(json.dumps(dict(told.provenance)))
    origin["models"][0]["model"] = HOSTILE[0]
    for name in ("source", "target"):
        origin["spec"][name]["prompt"] = HOSTILE[1]
    origin["spec"]["mapping"] = HOSTILE[2]
    return replace(told, cells=cells, unpatched=HOSTILE[4], provenance=origin)


@pytest.fixture(params=["ranked", "told", "hostile"])
def result(request: pytest.FixtureRequest) -> PatchscopeResult:
    return request.getfixturevalue(request.param)


# Saved and loaded


def test_what_is_loaded_is_what_was_saved(result: PatchscopeResult, tmp_path: Path):
    loaded = Result.load(result.save(tmp_path / "a.json"))
    assert type(loaded) is type(result)
    assert loaded.cells == result.cells
    assert loaded.unpatched == result.unpatched
    assert loaded.provenance == json.loads(json.dumps(dict(result.provenance)))
    assert torch.equal(loaded.representations, result.representations)
    assert loaded.rows() == result.rows()


def test_saved_again_it_is_the_same_bytes(result: PatchscopeResult, tmp_path: Path):
    first = result.save(tmp_path / "a.json")
    second = Result.load(first).save(tmp_path / "b.json")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".safetensors").read_bytes() == second.with_suffix(".safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{e}" for n in "ab" for e in ("json", "safetensors")}


def test_the_json_is_one_line_that_says_what_it_is(result: PatchscopeResult):
    text = result.to_json()
    assert "\n" not in text
    data = json.loads(text)
    assert (data["kind"], data["schema_version"]) == ("patchscope", SCHEMA_VERSION)
    assert len(data["cells"]) == len(result.cells)
    assert {"source_site", "source_layer", "source_position", "source_token", "target_layer", "text"} <= set(
        data["cells"][0]
    )


def test_a_new_process_loads_it(told: PatchscopeResult, tmp_path: Path):
    path = told.save(tmp_path / "a.json")
    code = f"import bathyscope; print(bathyscope.Result.load({str(path)!r}).kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "patchscope\n", done.stderr


@dataclass(frozen=True)
class Counted(Result):
    """The smallest result of one's own."""

    kind: ClassVar[str] = "counted"
    number: int
    provenance: dict

    def rows(self):
        return [{"number": self.number}]

    def to_dict(self):
        return {"kind": self.kind, "number": self.number, "provenance": self.provenance}

    def page(self):
        return f"<p>{self.number}</p>"

    @classmethod
    def from_dict(cls, data, tensors):
        assert tensors == {}
        return cls(data["number"], data["provenance"])


def test_a_kind_of_ones_own_is_saved_without_tensors(tmp_path: Path):
    path = Counted(3, {}).save(tmp_path / "a.json")
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert Result.load(path) == Counted(3, {})


# Damaged


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_file_that_ends_too_early_is_refused(told: PatchscopeResult, tmp_path: Path, share: float):
    path = told.save(tmp_path / "a.json")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StorageError, match=re.escape(str(path))) as caught:
        Result.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", "{}", '{"schema_version": 1}', '{"kind": "patchscope"}', "\x00", '"patchscope"']
)
def test_json_that_is_no_result_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(StorageError, match="a JSON file that bathyscope saved"):
        Result.load(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("unpatched"),
        lambda data: data["cells"].append({}),
        lambda data: data["cells"][0].update(unknown=1),
        lambda data: data["cells"][0].pop("source_layer"),
        lambda data: data["cells"][0].update(candidates=[{"id": 1}]),
        lambda data: data.update(kind="horoscope"),
        lambda data: data.update(schema_version="new"),
    ],
)
def test_a_result_with_other_fields_is_refused(told: PatchscopeResult, damage, tmp_path: Path):
    path = told.save(tmp_path / "a.json")
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(StorageError, match=re.escape(str(path))):
        Result.load(path)


def test_a_newer_version_is_refused_with_what_to_type(told: PatchscopeResult, tmp_path: Path):
    path = told.save(tmp_path / "a.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(StorageError, match="pip install --upgrade bathyscope"):
        Result.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(StorageError, match=re.escape(str(path))):
            Result.load(path)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_damaged_tensors_are_refused(told: PatchscopeResult, tmp_path: Path, keep: int):
    beside = told.save(tmp_path / "a.json").with_suffix(".safetensors")
    beside.write_bytes(beside.read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"a\.json"):
        Result.load(tmp_path / "a.json")


def test_missing_tensors_are_refused(told: PatchscopeResult, tmp_path: Path):
    beside = told.save(tmp_path / "a.json").with_suffix(".safetensors")
    save_file({"other": load_file(beside)["representations"]}, beside)
    with pytest.raises(StorageError):
        Result.load(tmp_path / "a.json")
    beside.unlink()
    with pytest.raises(StorageError, match="representations"):
        Result.load(tmp_path / "a.json")


@pytest.mark.xfail(reason="the tensors of another result are taken for this one's")
def test_the_tensors_of_another_result_are_refused(told: PatchscopeResult, ranked: PatchscopeResult, tmp_path: Path):
    assert len(told.cells) != len(ranked.cells)
    path, other = told.save(tmp_path / "a.json"), ranked.save(tmp_path / "b.json")
    other.with_suffix(".safetensors").replace(path.with_suffix(".safetensors"))
    with pytest.raises(StorageError):
        Result.load(path)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.JSON", "a.json.gz"])
def test_another_ending_is_refused_with_one_that_works(told: PatchscopeResult, tmp_path: Path, name: str):
    with pytest.raises(UsageError, match=r"written as \.json or \.html") as caught:
        told.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert told.save(tmp_path / caught.value.remedy)


def test_a_full_disk_leaves_the_earlier_file_as_it_was(told, ranked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = told.save(tmp_path / "a.json")
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}

    def full(_descriptor: int):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bathyscope.files.os.fsync", full)
    with pytest.raises(
        StorageError, match=r"a\.safetensors could not be written \(No space left.* bytes of room"
    ) as caught:
        ranked.save(path)
    assert caught.value.exit_code == 1
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there_is_named(told: PatchscopeResult, tmp_path: Path):
    for name in ("no/a.json", "no/a.html"):
        with pytest.raises(StorageError, match=r"no/a\.\w+ could not be written .* a folder that exists"):
            told.save(tmp_path / name)


# Shown


class Page(HTMLParser):
    """What a browser makes of a page: elements, attributes, and the text inside."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.texts, self.comments, self.inside = [], [], [], [], []
        self.cells: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.inside.append(tag)
        if tag in ("td", "th", "dd"):
            self.cells.append("")

    def handle_endtag(self, tag):
        if tag in self.inside:
            del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag) :]

    def handle_data(self, data):
        if self.inside and self.inside[-1] in ("td", "th", "dd"):
            self.cells[-1] += data
        self.texts.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


@pytest.mark.parametrize("whole", [True, False])
def test_hostile_text_is_shown_and_does_nothing(hostile: PatchscopeResult, whole: bool):
    text = hostile.to_html() if whole else hostile._repr_html_()
    page = Page(text)
    harmless = {"html", "head", "meta", "title", "body", "div", "style", "h2", "dl", "dt", "dd"}
    assert set(page.tags) <= harmless | {"table", "thead", "tbody", "tr", "th", "td"}
    assert {name for name, _ in page.attributes} <= {
        "class",
        "scope",
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
    }
    assert page.comments == []
    assert page.tags.count("style") == 1
    for said in (*(cell.text for cell in hostile.cells), hostile.unpatched):
        assert said in page.cells


def test_a_page_asks_for_nothing_from_elsewhere(told: PatchscopeResult):
    text = told.to_html()
    assert not re.search(r"https?:|//|src\s*=|href\s*=|url\(|@import", text)
    assert "default-src 'none'" in text


@pytest.mark.xfail(reason="control characters go into the page as they are")
def test_a_page_has_no_characters_that_a_terminal_obeys(told: PatchscopeResult):
    cell = replace(told.cells[0], text="\x1b[31mred\x1b[0m \x07\x9b2J")
    text = replace(told, cells=(cell,)).to_html()
    assert not set(text) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


def test_a_page_has_every_cell_in_its_row_and_column(ranked: PatchscopeResult, tmp_path: Path):
    path = ranked.save(tmp_path / "a.html")
    assert path.read_text("utf-8") == ranked.to_html()
    cells = Page(ranked.page()).cells
    start = cells.index("layer")
    positions = sorted({cell.source_position for cell in ranked.cells})
    head = cells[start + 1 : start + 1 + len(positions)]
    assert head == [f"{p} {ranked.at(layer=0, position=p).source_token!r}" for p in positions]
    body = cells[start + 1 + len(positions) :]
    for number, layer in enumerate((-1, 0, 1, 2)):
        row = body[number * (len(positions) + 1) : (number + 1) * (len(positions) + 1)]
        assert row[0] == ("embedding" if layer == -1 else str(layer))
        assert row[1:] == [ranked.at(layer=layer, position=position).text for position in positions]


@pytest.mark.xfail(reason="a cell that is written at its own layer stands in a column of its own")
@pytest.mark.parametrize("target_layer", ["all", 2])
def test_a_page_has_a_column_for_each_layer_that_is_written_at(target_layer: str | int):
    source = Source(tiny_model("llama"), "Diana, Princess of Wales", layer="0-3")
    result = patchscope(source, Target(prompt=custom("hello x"), layer=target_layer), readout=Generate(2))
    cells = Page(result.page()).cells
    head = cells[cells.index("layer") + 1 : cells.index("0")]
    assert len(head) == len({cell.target_layer for cell in result.cells})


def test_a_frame_has_a_row_for_each_cell(ranked: PatchscopeResult):
    pandas = pytest.importorskip("pandas")
    frame = ranked.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == ranked.rows()
    assert len(frame) == len(ranked.cells)
    chosen = frame[(frame.source_layer == 2) & (frame.source_position == 3)]
    assert list(chosen.text) == [ranked.at(layer=2, position=3).text]
    assert "candidates" not in frame


def test_without_pandas_a_frame_says_what_to_install(told: PatchscopeResult, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=re.escape('pip install "bathyscope[frames]"')):
        told.to_frame()


def test_candidates_are_kept_in_the_json_and_come_back(ranked: PatchscopeResult, tmp_path: Path):
    cell = Result.load(ranked.save(tmp_path / "a.json")).cells[0]
    assert len(cell.candidates) == 3
    assert all(isinstance(one, Candidate) for one in cell.candidates)
    assert cell.candidates == ranked.cells[0].candidates
