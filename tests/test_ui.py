"""The web app in a real browser: on a tiny model, and one journey on the embedded one. `make test-ui` runs these."""

import contextlib
import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import browsing
from bathyscope.embedded import embedded_status
from browsing import DIST, HOSTILE, ROOT, UNSEEN, Watched, chromium, driving, look, needs_app
from web_server import TEXT, Client, running

pytestmark = [pytest.mark.browser, needs_app]
app = browsing.app


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with driving() as one:
        yield one


@pytest.fixture(scope="module")
def browser(driver: Any) -> Iterator[Any]:
    with chromium(driver) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("ui"), files=None) as one:
        yield one


def cell(page: Any, key: str) -> Any:
    return page.locator(f'td[data-key="{key}"]')


def test_the_files_keep_to_their_budget_and_load_nothing_from_elsewhere():
    sizes = {ending: [path for path in DIST.rglob(f"*.{ending}")] for ending in ("js", "css")}
    packed = {ending: sum(len(gzip.compress(one.read_bytes())) for one in paths) for ending, paths in sizes.items()}
    assert packed["js"] <= 200_000 and packed["css"] <= 30_000, packed
    names = "|".join(["www.w3.org/(?:2000/svg|1999/xhtml|1998/Math/MathML|1999/xlink|XML/1998/namespace|2000/xmlns/)"])
    for path in (*sizes["js"], *sizes["css"], DIST / "index.html", DIST / "export.html"):
        urls = set(re.findall(r"https?://([\w./-]+)", path.read_text("utf-8")))
        # Namespaces are names, and the framework's errors name a page that explains them.
        assert {url for url in urls if not re.fullmatch(f"{names}|svelte.dev/e/[\\w/]*", url)} == set(), path.name
    assert "svelte" in (DIST / "licenses.txt").read_text("utf-8").lower()


def test_the_first_paint_is_quick_and_the_token_leaves_the_address(browser: Any, server: Any):
    watched = Watched(browser)
    link = server.access.link()
    began = time.perf_counter()
    watched.page.goto(link)
    watched.page.wait_for_selector("[data-prompt]")
    seconds = time.perf_counter() - began
    assert "token" not in watched.page.url
    assert [one["httpOnly"] for one in watched.context.cookies()] == [True]
    watched.close()
    assert seconds < 3, seconds  # a second on an idle machine; the pages that measure it say so


def test_cells_fill_in_while_they_are_computed(app: Watched):
    page = app.page
    page.fill("[data-prompt]", f"Streaming {TEXT}")
    page.click("button.main")
    page.wait_for_selector("td.growing, td.done")
    page.wait_for_selector("[data-state=done]")
    assert page.locator("td.empty, td.growing").count() == 0
    assert (
        page.locator("td.done").count()
        == page.locator("thead th:not(.corner)").count() * page.locator("tbody tr").count()
    )
    app.picture("patchscope-tiny")


def test_hovering_lights_layer_and_token_everywhere(app: Watched):
    look(app.page)
    cell(app.page, "1|2").hover()
    assert app.page.locator("tbody th.lit").inner_text() == "1"
    assert app.page.locator("thead th.lit").inner_text().startswith("2 ")
    assert app.page.locator("ol.tokens li.lit sub").inner_text() == "2"
    app.page.locator("ol.tokens li").nth(1).hover()
    assert app.page.locator("thead th.lit").inner_text().startswith("1 ")


def test_a_click_opens_text_control_and_the_command_that_makes_it(app: Watched):
    look(app.page)
    cell(app.page, "0|3").click()
    side = app.page.get_by_label("One cell")
    side.locator("pre").first.wait_for()
    assert "nothing written" in side.inner_text() and "shuffled" in side.inner_text()
    assert "--at 3 --layers 0" in side.locator("pre").first.inner_text()
    assert "bathyscope.patchscope(" in side.locator("pre").last.inner_text()
    app.page.keyboard.press("Escape")
    assert side.count() == 0


def test_everything_is_reached_by_keys(app: Watched):
    page = app.page
    page.keyboard.press("/")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-state=done]")
    page.locator("td[tabindex='0']").focus()
    assert page.locator("td[tabindex='0']").count() == 1
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "End", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    focused = page.evaluate("document.activeElement.dataset.key")
    row, column = focused.split("|")
    last = page.locator("thead th:not(.corner)").count() - 1
    assert (row, int(column)) == ("0", last - 1)
    assert page.get_by_label("One cell").locator("h2").inner_text().startswith("layer 0,")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.get_by_label("Help").is_visible()


def test_a_view_is_in_its_address(app: Watched):
    page = app.page
    look(page, "In the address")
    cell(page, "1|1").click()
    page.wait_for_function("location.hash.includes('cell=')")
    said = page.locator("aside .said").inner_text()
    page.reload()
    page.wait_for_selector("[data-state=done]")
    assert page.locator("[data-prompt]").input_value() == "In the address"
    page.wait_for_selector("aside .said")
    assert page.locator("aside .said").inner_text() == said
    page.get_by_role("button", name="Lenses").click()
    page.wait_for_selector("text=Lens")
    page.go_back()
    page.wait_for_selector("aside .said")
    assert page.locator("[data-prompt]").input_value() == "In the address"


def test_a_run_is_cancelled(app: Watched):
    page = app.page
    page.get_by_text("More choices").click()
    page.get_by_label("Tokens written").fill("64")
    page.fill("[data-prompt]", "Cancelled " + TEXT * 6)
    page.click("button.main")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("[data-state=cancelled]")
    look(page, "And then another")


def test_errors_are_told_in_the_servers_words(app: Watched):
    app.page.get_by_text("More choices").click()
    app.page.get_by_role("textbox", name=re.compile("^Layers")).fill("99")
    app.page.fill("[data-prompt]", TEXT)
    app.page.click("button.main")
    assert "99" in app.page.locator(".alert").inner_text()


@pytest.mark.parametrize("view", ["Lenses", "Causal"])
def test_other_views_draw_their_grids(app: Watched, view: str):
    page = app.page
    page.get_by_role("button", name=view).click()
    page.fill("[data-prompt]", TEXT)
    if view == "Causal":
        page.get_by_label("Subject").fill("Princess")
        page.get_by_label("Answer").fill("o")
    page.click("button.main")
    page.wait_for_selector("[data-state=done]")
    cell(page, "1|2").click()
    page.get_by_label("One cell").locator("pre").first.wait_for()
    if view == "Lenses":
        assert page.get_by_label("One cell").locator("svg circle").count() >= 1
    app.picture(view.lower() + "-tiny")


def test_a_cell_is_written_by_hand_and_what_it_reaches_is_tinted(app: Watched):
    page = app.page
    page.set_viewport_size({"width": 1280, "height": 1800})  # the driver drags nothing out of a page that scrolls
    look(page)
    cell(page, "1|3").first.click()
    page.get_by_text("Write one cell by hand").click()
    page.get_by_label("Prompt that is written into").fill("Tell me about x now")
    target = page.locator("details table").last
    target.locator("thead th", has_text="bou").wait_for()  # the tokens of what was typed
    words = target.locator("thead th").all_inner_texts()
    column = next(number for number, word in enumerate(words[1:]) if word.endswith("x"))
    cell(page, "1|3").first.drag_to(target.locator(f'td[data-key="2|{column}"]'))
    page.wait_for_selector("details .said")
    said = target.locator(f'td[data-key="2|{column}"]').inner_text()
    assert said and page.locator("details .said").inner_text().startswith(said[:20])
    tinted = {one.get_attribute("data-key") for one in target.locator("td.above").all()}
    assert tinted == {f"{layer}|{later}" for layer in range(3, 4) for later in range(column, len(words) - 1)}
    app.picture("by-hand-tiny")


def test_two_answers_stand_side_by_side(app: Watched):
    page = app.page
    page.get_by_role("button", name="Lenses").click()
    look(page)
    page.get_by_role("button", name="Keep to compare").click()
    page.locator("form select").first.select_option("token-identity")
    page.click("button.main")
    page.wait_for_selector("text=token-identity: what each layer")
    cell(page, "1|1").first.hover()
    assert page.locator("thead th.lit").count() == 2  # one glance at both


def test_runs_are_listed_and_shown_again(app: Watched):
    page = app.page
    look(page, "Kept among the runs")
    page.get_by_role("button", name="Runs").click()
    row = page.locator("tr", has_text="Kept among the runs")
    row.get_by_role("button", name="Show").click()
    page.wait_for_selector("[data-state=done]", state="attached")
    assert page.locator("td.done").count() > 0
    app.picture("runs-tiny")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_in_the_app(app: Watched, text: str):
    page = app.page
    look(page, text)
    cell(page, "1|1").click()
    page.get_by_label("One cell").locator("pre").first.wait_for()
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main iframe, main script").count() == 0
    shown = page.locator("main").inner_text()
    assert not re.search(UNSEEN, re.sub(r"\n|\t", " ", shown))


def test_hostile_text_is_inert_in_what_is_saved(app: Watched, browser: Any, tmp_path: Path):
    page = app.page
    look(page, " ".join(HOSTILE[:2]) + " =1+1")
    saved = {}
    for name in ("page", "CSV", "JSON"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Save {name}").click()
        saved[name] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(saved[name])
    alone = Watched(browser, offline=True)
    alone.page.goto(saved["page"].as_uri())
    cell(alone.page, "1|1").click()
    assert alone.page.evaluate("window.hit") is None
    assert alone.page.locator("script").count() == 2 and alone.page.locator("img").count() == 0
    assert cell(alone.page, "1|1").inner_text() == cell(page, "1|1").inner_text()
    alone.close()
    assert json.loads(saved["JSON"].read_text("utf-8"))["kind"] == "patchscope"
    assert not re.search(r'(^|,)"[=+@-]', saved["CSV"].read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["Patchscope", "Lenses", "Causal", "Runs"])
def test_nothing_serious_is_wrong_for_those_who_see_or_hear_little(browser: Any, server: Any, view: str, scheme: str):
    watched = Watched(browser, color_scheme=scheme)
    page = watched.page
    page.goto(server.access.link())
    page.wait_for_selector("[data-prompt]")
    page.get_by_role("button", name=view).click()
    if view != "Runs":
        page.fill("[data-prompt]", TEXT)
        if view == "Causal":
            page.get_by_label("Subject").fill("Princess")
            page.get_by_label("Answer").fill("o")
        page.click("button.main")
        page.wait_for_selector("[data-state=done]")
        cell(page, "1|1").click()
        page.get_by_label("One cell").locator("pre").first.wait_for()
        page.mouse.move(0, 0)
    page.wait_for_timeout(300)  # colours change over a moment
    serious = watched.serious()
    watched.picture(f"{view.lower()}-{scheme}")
    watched.close()
    assert serious == []


def test_a_narrow_screen_is_enough(browser: Any, server: Any):
    watched = Watched(browser, viewport={"width": 360, "height": 740})
    page = watched.page
    page.goto(server.access.link())
    page.wait_for_selector("[data-prompt]")
    assert "row 4 of the last column" in page.get_by_label("How to read it").inner_text()
    look(page)
    assert page.get_by_label("How to read it").count() == 0
    last = page.locator("thead th").last
    assert last.bounding_box()["x"] > 360, "the last token is out of sight"
    page.locator("ol.tokens button").last.click()
    page.wait_for_timeout(100)
    assert last.bounding_box()["x"] < 360
    cell(page, "1|1").click()
    page.wait_for_timeout(100)
    box = page.get_by_label("One cell").bounding_box()
    assert 0 < box["y"] < 740 and box["y"] + box["height"] <= 740, "what was opened is seen where one is"
    for view in (None, "Lenses", "Causal", "Runs"):
        if view:
            page.get_by_role("button", name=view).click()
        page.wait_for_timeout(100)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360, view
        watched.picture(f"narrow-{view or 'patchscope'}".lower())
    watched.close()


SERVER = """
import sys; sys.path.insert(0, {tests!r})
from conftest import tiny_model
from bathyscope.store import Store
from bathyscope.web.models import Models
from bathyscope.web.server import WebServer
with Store({store!r}) as store:
    server = WebServer(Models({{"tiny": tiny_model()}}), store, port={port})
    server.run(lambda: print(server.access.link(), flush=True))
"""


def started(folder: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    code = SERVER.format(tests=str(ROOT / "tests"), store=str(folder / "store"), port=port)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_a_server_that_dies_in_the_middle_is_told_and_comes_back(browser: Any, tmp_path: Path):
    process, link = started(tmp_path)
    watched = Watched(browser, "net::ERR", "401")
    page = watched.page
    try:
        page.goto(link)
        page.wait_for_selector("[data-prompt]")
        look(page, "Finished before")
        page.get_by_text("More choices").click()
        page.get_by_label("Tokens written").fill("64")
        page.fill("[data-prompt]", "Under way " + TEXT * 6)
        page.click("button.main")
        page.wait_for_selector("td.growing, td.done")
        process.kill()
        process.communicate()
        page.wait_for_selector("text=The server has stopped")
        watched.picture("stopped")
        process, link = started(tmp_path, int(link.split(":")[2].split("/")[0]))
        page.wait_for_selector("text=does not know this browser")
        page.goto(link)  # the same page: what was under way goes on by itself
        page.wait_for_selector("[data-state=done]", timeout=60_000)
        assert page.locator(".alert").count() == 0
        assert page.locator("[data-prompt]").input_value().startswith("Under way")
        page.get_by_role("button", name="Runs").click()
        page.wait_for_selector("text=Finished before")
    finally:
        process.kill()
        process.communicate()
    watched.close()


ATTACK = """async (port) => {
  const base = `http://127.0.0.1:${port}`, found = {};
  const tries = {
    get: () => fetch(`${base}/api/runs`), credentials: () => fetch(`${base}/api/runs`, {credentials: "include"}),
    json: () => fetch(`${base}/api/ask`, {method: "POST", headers: {"content-type": "application/json"}, body: "{}"}),
    remove: () => fetch(`${base}/api/runs/0123456789abcdef`, {method: "DELETE"}),
    page: () => fetch(`${base}/`), own: () => fetch("/api/capabilities").then((r) => { if (!r.ok) throw r.status; }),
  };
  for (const [name, attempt] of Object.entries(tries))
    found[name] = await attempt().then(() => "answered", () => "refused");
  const blind = {method: "POST", mode: "no-cors", body: '{"kind":"patchscope","text":"blind"}'};
  found.blind = await fetch(`${base}/api/ask`, blind).then(() => "answered", () => "refused");
  for (const kind of ["img", "script"]) found[kind] = await new Promise((done) => {
    const one = document.createElement(kind);
    one.onload = () => done("answered"); one.onerror = () => done("refused");
    one.src = `${base}/api/health`; document.head.append(one);
  });
  return found;
}"""


def test_a_page_of_another_name_on_this_machine_gets_nothing(driver: Any, server: Any, tmp_path: Path):
    port = int(server.access.origin.rpartition(":")[2])
    (tmp_path / "index.html").write_text("<!doctype html><title>evil</title>")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **quiet) as evil, contextlib.ExitStack() as closing:
        closing.callback(evil.kill)
        other = int(re.search(r"port (\d+)", evil.stdout.readline())[1])
        with chromium(driver, "--host-resolver-rules=MAP evil.test 127.0.0.1") as browser:
            page = browser.new_page()
            assert page.goto(f"http://evil.test:{port}/").status == 421  # the name was pointed here
            assert page.evaluate("fetch('/api/health').then((one) => one.status)") == 421
            page.goto(f"http://evil.test:{other}/")
            found = page.evaluate(ATTACK, port)
    assert set(found.values()) == {"refused"}, found
    assert "blind" not in {one["text"] for one in Client(server).enter().get("/api/runs").json()["runs"]}


@pytest.mark.embedded
@pytest.mark.skipif(not embedded_status().cached, reason="the embedded model is not in the cache")
def test_a_newcomer_sees_what_block_4_thinks_of_the_last_word(browser: Any, tmp_path: Path, monkeypatch):
    command = [
        shutil.which("bathyscope", path=str(Path(sys.executable).parent)) or "bathyscope",
        "serve",
        "--no-browser",
    ]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # an empty store, so that cells are computed
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = Watched(browser)
        page = watched.page
        try:
            began = time.perf_counter()
            page.goto(process.stdout.readline().strip())
            page.get_by_role("button", name="Diana, Princess of Wales").click()
            page.wait_for_selector("[data-state=done]", timeout=120_000)
            cell(page, "4|5").click()
            page.get_by_label("One cell").locator("pre").first.wait_for()
            assert "United Kingdom" in page.locator("aside .said").inner_text()
            assert time.perf_counter() - began < 60
            watched.picture("patchscope")
            page.get_by_role("button", name="Lenses").click()
            page.get_by_role("button", name="The capital of France is").click()
            page.wait_for_selector("[data-state=done]", timeout=120_000)
            assert "Paris" in cell(page, "29|4").inner_text()
            cell(page, "29|4").click()
            page.get_by_label("One cell").locator("pre").first.wait_for()
            watched.picture("lenses")
            page.get_by_role("button", name="Causal").click()
            page.get_by_role("button", name="The capital of France is").click()
            page.wait_for_selector("[data-state=done]", timeout=120_000)
            assert cell(page, "29|4").inner_text().startswith("+0.7")
            watched.picture("causal")
        finally:
            process.terminate()
            process.wait(5)
        watched.close()
