"""Results in a notebook: the app's renderer in a frame and as a widget, and hostile text in both."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bathyscope
from bathyscope import lenses
from bathyscope.errors import UsageError
from bathyscope.readouts import Generate
from bathyscope.results import Result
from bathyscope.web import notebook
from bathyscope.web.assets import assets
from bathyscope.web.notebook import Framed, load_ipython_extension, show, widget
from bathyscope.web.page import drawn
from browsing import HOSTILE, UNSEEN, FilePage, file_pages, needs_app, needs_browser
from circuits_by_hand import circuit_by_hand
from conftest import tiny_model
from web_server import TEXT


def patchscope() -> Any:
    source = bathyscope.Source(tiny_model(), TEXT, "all", "0-1")
    return bathyscope.patchscope(source, readout=Generate(3))


def hostile() -> Any:
    found = patchscope()
    cells = [replace(one, text=HOSTILE[number % len(HOSTILE)]) for number, one in enumerate(found.cells)]
    return replace(found, cells=tuple(cells))


@pytest.fixture(scope="module")
def pages() -> Iterator[FilePage]:
    with file_pages() as one:
        yield one


def framed(result: Result, path: Path) -> Path:
    """A page of a notebook with one frame in it."""
    bundle = Framed(result)._repr_mimebundle_()
    ready = "<script>addEventListener('load', () => (document.documentElement.dataset.ready = 1))</script>"
    path.write_text(f"<!doctype html><title>notebook</title>{ready}<body>{bundle['text/html']}", "utf-8")
    return path


@needs_app
def test_a_frame_holds_all_and_may_do_nothing():
    result = hostile()
    bundle = Framed(result)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and bundle["text/plain"].startswith("patchscope, ")
    assert bundle["text/html"].count("<") == 2, "a frame, and nothing beside it"
    assert 'sandbox="allow-scripts"' in bundle["text/html"] and "allow-same-origin" not in bundle["text/html"]
    inside = html.unescape(re.search('srcdoc="([^"]*)"', bundle["text/html"])[1])
    data = json.loads(re.search('id="result">(.*?)</script>', inside)[1])
    assert [one["text"] for one in data["cells"]] == [one.text for one in result.cells]


@needs_app
def test_a_widget_is_given_the_result_and_the_apps_renderer():
    anywidget = pytest.importorskip("anywidget")
    result = patchscope()
    found = widget(result)
    assert isinstance(found, anywidget.AnyWidget) and isinstance(show(result), anywidget.AnyWidget)
    assert found.result == drawn(result) and str(found._esm) == assets()["/widget.js"].body.decode()
    with pytest.raises(UsageError, match="a widget draws"):
        widget(circuit_by_hand())


@needs_app
def test_without_anywidget_a_frame_is_shown(monkeypatch: pytest.MonkeyPatch):
    def missing() -> None:
        raise UsageError("a widget needs anywidget", "it is an extra", "")

    monkeypatch.setattr(notebook, "_widget_class", missing)
    assert isinstance(show(patchscope()), Framed) and isinstance(show(circuit_by_hand()), Framed)
    given: dict[type, Any] = {}
    formatter = SimpleNamespace(for_type=given.__setitem__)
    load_ipython_extension(SimpleNamespace(display_formatter=SimpleNamespace(mimebundle_formatter=formatter)))
    bundle = given[Result](patchscope(), include=None, exclude=None)
    assert "iframe" in bundle["text/html"]


def open_frame(pages: FilePage, path: Path) -> Any:
    pages.open(path)
    frame = pages.page.frames[1]
    frame.wait_for_selector("td, .node, .row")
    return frame


@needs_app
@needs_browser
def test_grids_of_patchscopes_and_lenses_are_drawn_in_a_frame(pages: FilePage, tmp_path: Path):
    for result in (patchscope(), lenses.logit_lens(tiny_model(), TEXT)):
        frame = open_frame(pages, framed(result, tmp_path / "a.html"))
        assert frame.locator("td.done").count() == len(result.cells)
        frame.locator('td[data-key="1|2"]').click()
        assert frame.get_by_label("One cell").locator("h2").inner_text().startswith("layer 1,")
        assert pages.complaints() == []


@needs_app
@needs_browser
def test_hostile_text_is_inert_in_a_frame(pages: FilePage, tmp_path: Path):
    frame = open_frame(pages, framed(hostile(), tmp_path / "a.html"))
    frame.locator('td[data-key="1|1"]').click()
    shown = frame.locator("body").inner_text()
    assert HOSTILE[0] in shown and not re.search(UNSEEN, re.sub(r"\n|\t", " ", shown))
    assert frame.evaluate("window.hit") is None and frame.locator("img, iframe").count() == 0
    assert pages.run("window.hit") is None
    assert frame.evaluate("(() => { try { return parent.document.title } catch { return 'refused' } })()") == "refused"
    assert pages.complaints() == []


@needs_browser
def test_a_circuit_is_drawn_in_a_frame(pages: FilePage, tmp_path: Path):
    frame = open_frame(pages, framed(circuit_by_hand(), tmp_path / "a.html"))
    assert frame.locator(".node.feature").count() == 11
    assert pages.complaints() == []


WIDGET = """<!doctype html><meta charset="utf-8"><title>notebook</title><style>td {{ display: none }}</style>
<div id="cell"></div><script type="application/json" id="data">{data}</script>
<script type="module">{script}
const {{ render }} = globalThis.widget;
let result = JSON.parse(document.getElementById("data").textContent), changed;
const model = {{ get: () => result, on: (_name, called) => (changed = called), off: () => (changed = null) }};
globalThis.end = render({{ model, el: document.getElementById("cell") }});
globalThis.change = (cells) => {{ result = {{ ...result, cells }}; changed(); }};
globalThis.listening = () => Boolean(changed);
document.documentElement.dataset.ready = 1;
</script>"""


@needs_app
@needs_browser
def test_the_widgets_module_draws_and_hostile_text_is_inert(pages: FilePage, tmp_path: Path):
    script = assets()["/widget.js"].body.decode()
    script, replaced = re.subn(r"export\s*\{\s*(\S+) as default\s*\};?\s*$", r"globalThis.widget = \1;", script)
    assert replaced == 1, "the module's one export"
    for result in (hostile(), lenses.logit_lens(tiny_model(), TEXT)):
        data = json.dumps(drawn(result)).replace("<", "\\u003c")
        (tmp_path / "a.html").write_text(
            WIDGET.format(data=data, script=script.replace("</script", "<\\/script")), "utf-8"
        )
        pages.open(tmp_path / "a.html")
        cells = pages.page.locator(
            "#cell td.done"
        )  # they stand in a shadow root, which the page's style does not reach
        assert cells.count() == len(result.cells) and cells.first.is_visible()
        pages.page.locator('#cell td[data-key="1|1"]').click()
        assert pages.page.get_by_label("One cell").locator("h2").inner_text().startswith("layer 1,")
        assert pages.run("window.hit") is None and pages.page.locator("img, iframe").count() == 0
        pages.run("change([])")
        assert cells.count() == 0
        pages.run("end()")
        assert pages.run("listening()") is False
        assert pages.complaints() == []
