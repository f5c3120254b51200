"""The app's views of circuits and of features, in a real browser, on a small model that learned a grammar."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from agreement_model import agreement_model, coders
from bathyscope import generate
from bathyscope.circuits import Change, edit_features, examples_of, open_circuit
from bathyscope.circuits.viewer import viewer_page
from bathyscope.results import Result
from bathyscope.sae import Edit, Splice
from bathyscope.web.models import Models
from bathyscope.web.opened import OpenedCircuit, OpenedCoder
from browsing import HOSTILE, UNSEEN, Watched, chromium, driving, needs_app
from circuits_by_hand import TOKENS, circuit_by_hand
from conftest import tiny_model
from served_for_tests import save_files, served
from web_server import running

pytestmark = [pytest.mark.browser, needs_app]
PROMPT = "The teacher near the cars"
SAID = "[...document.querySelectorAll('.node')].map((one) => one.getAttribute('aria-label'))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driving() as driver, chromium(driver) as one:
        yield one


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, paths: dict[str, Path]) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("ui"), files=None, models=served(paths)) as one:
        yield one


def opened(browser: Any, server: Any, view: str, **options: Any) -> Watched:
    watched = Watched(browser, **options)
    watched.page.goto(server.access.link())
    watched.page.get_by_role("button", name=view).click()
    watched.page.wait_for_selector(".graph .node" if view == "Circuits" else ".latents .row")
    return watched


@pytest.fixture
def circuits(browser: Any, server: Any) -> Iterator[Watched]:
    watched = opened(browser, server, "Circuits")
    yield watched
    watched.close()


@pytest.fixture
def features(browser: Any, server: Any) -> Iterator[Watched]:
    watched = opened(browser, server, "Features")
    yield watched
    watched.close()


def latents_of(paths: dict[str, Path]) -> list[str]:
    """The circuit's latents, the largest attributions first."""
    return [str(one.feature) for one in open_circuit(paths["circuit"]).nodes if one.feature.index is not None]


def pin(page: Any, key: str) -> None:
    node = f"[...document.querySelectorAll('.node')].find((one) => one.item.id === {key!r})"
    page.evaluate(f"{node}.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))")


def until(page: Any, script: str) -> None:
    """Wait for what is so soon. The driver's own way to wait evaluates text, which the app's policy refuses."""
    end = time.monotonic() + 20
    while not page.evaluate(script):
        assert time.monotonic() < end, script
        page.wait_for_timeout(50)


def table(page: Any) -> dict[str, list[str]]:
    """What the ablation's table says, by row."""
    rows = page.get_by_label("Ablation").locator("tbody tr").all()
    return {one.locator("th").inner_text(): [cell.inner_text() for cell in one.locator("td").all()] for one in rows}


def as_shown(value: float) -> str:
    size = f"{abs(value):.3f}"
    return "0" if float(size) == 0 else ("+" if value > 0 else "\u2212") + size


# Circuits


def test_the_app_draws_the_graph_that_a_saved_page_draws(circuits: Watched, browser: Any, paths, tmp_path: Path):
    view = open_circuit(paths["circuit"]).view("verb agreement")
    (tmp_path / "a.html").write_text(viewer_page(view), "utf-8")
    saved = Watched(browser, offline=True)
    saved.page.goto((tmp_path / "a.html").as_uri())
    saved.page.wait_for_function("document.documentElement.dataset.ready")
    expected = saved.page.evaluate(SAID)
    saved.close()
    assert circuits.page.evaluate(SAID) == expected and len(expected) == len(view.nodes)
    circuits.picture("circuits-tiny")


def test_a_node_is_ablated_by_keys_and_what_is_shown_is_the_edit(circuits: Watched, paths):
    page = circuits.page
    assert page.get_by_role("button", name="Ablate").is_disabled()
    page.locator(".stage").focus()
    page.keyboard.press("ArrowUp")
    latent = page.evaluate("document.querySelector('.node.current').item.id")
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    page.wait_for_selector("section[aria-label=Ablation] [data-state=done]")
    found = open_circuit(paths["circuit"])
    pairs = examples_of(agreement_model(), found.pairs[:16])
    expected = edit_features(agreement_model(), coders(), [Change.parse(latent)], pairs)
    shown = table(page)
    (row,) = expected.changes
    assert shown[row["change"]] == [as_shown(row["predicted"]), as_shown(row["measured"])]
    controls = [cells[1] for name, cells in shown.items() if name.startswith("control")]
    assert controls == [as_shown(one) for one in expected.controls]
    told = page.get_by_label("Ablation").locator(".told").inner_text()
    assert f"{expected.before['logit_difference']:.3f} to {expected.after['logit_difference']:.3f}" in told
    circuits.picture("circuits")
    page.get_by_text("The command and the Python that do the same").click()
    page.get_by_label("Ablation").locator("pre").first.wait_for()
    assert latent in page.get_by_label("Ablation").locator("pre").first.inner_text()


def test_a_group_is_ablated_together(circuits: Watched, paths):
    page = circuits.page
    first, second = latents_of(paths)[:2]
    pin(page, first)
    pin(page, second)
    page.locator(".stage").focus()
    page.keyboard.press("g")
    page.keyboard.insert_text("both of them")
    page.keyboard.press("Enter")
    assert "both of them: 2 latents" in page.get_by_label("Ablation").locator(".chosen").inner_text()
    page.get_by_label("set to").fill("1.5")
    page.get_by_role("button", name="Ablate").click()
    page.wait_for_selector("section[aria-label=Ablation] [data-state=done]")
    changes = [replace(Change.parse(one), value=1.5) for one in (first, second)]
    pairs = examples_of(agreement_model(), open_circuit(paths["circuit"]).pairs[:16])
    expected = edit_features(agreement_model(), coders(), changes, pairs)
    measured = expected.after["logit_difference"] - expected.before["logit_difference"]
    assert table(page)["all of them together"][1] == as_shown(measured)
    assert {one["change"] for one in expected.changes} < set(table(page))


def test_what_is_pinned_is_in_the_address(circuits: Watched, paths):
    page = circuits.page
    pin(page, latents_of(paths)[0])
    until(page, "location.hash.includes('pin')")
    page.reload()
    page.wait_for_selector(".node.pinned")
    assert page.evaluate("document.querySelector('.node.pinned').item.id") == latents_of(paths)[0]
    assert "1 latent" in page.get_by_label("Ablation").locator(".chosen").inner_text()


def test_an_ablation_is_cancelled_and_the_next_one_runs(circuits: Watched, paths):
    page = circuits.page
    pin(page, latents_of(paths)[0])
    page.get_by_label("of 32 pairs").fill("32")
    page.get_by_role("button", name="Ablate").click()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("section[aria-label=Ablation] [data-state=cancelled]")
    page.get_by_role("button", name="Ablate").click()
    page.wait_for_selector("section[aria-label=Ablation] [data-state=done]")


def test_keys_belong_to_the_graph_and_go_with_it(circuits: Watched):
    page = circuits.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Patchscope").click()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.hasAttribute('data-prompt')")


# Features


def test_latents_are_listed_searched_and_shown(features: Watched, paths):
    page = features.page
    read = Result.load(paths["features"])
    assert f"{len(read):,} of {len(read):,} latents" in page.locator(".latents .under").inner_text()
    described = next(iter(read.descriptions))
    page.get_by_label("Search latents").fill(str(described))
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.latents h2').textContent.startsWith('{described} ')")
    shown = page.locator(".latents > section").inner_text()
    assert "many things" in shown and "score 0.90" in shown and "best of 9 controls 0.20" in shown
    one = read[described]
    assert all(neighbour in shown for neighbour in [str(near.latent) for near in one.neighbours])
    assert page.locator(".latents .bars i").count() == len(one.histogram)
    assert page.locator(".latents .example").count() == len(one.examples) + len(one.samples)
    assert f"latent={described}" in page.url
    page.locator(".latents .columns a").first.click()
    until(page, f"location.hash.endsWith('latent={one.neighbours[0].latent}')")
    page.reload()
    page.wait_for_selector(".latents .picked")
    assert page.locator(".latents h2").inner_text().startswith(f"{one.neighbours[0].latent} ")
    features.picture("features-tiny")


def test_texts_with_a_latent_and_without_stand_side_by_side(features: Watched, paths):
    page = features.page
    latent = Result.load(paths["features"]).order()[0]
    page.get_by_label("Latent", exact=True).fill(str(latent))
    page.get_by_label("Strength", exact=True).fill("12")
    page.get_by_label("Tokens written").fill("6")
    page.get_by_label("Prompt").fill(PROMPT)
    page.keyboard.press("Enter")
    page.wait_for_selector("section[aria-label=Steer] [data-state=done]")
    texts = [one.inner_text() for one in page.locator("article bdi").all() if one.inner_text().startswith(PROMPT)]
    coder = coders()[1]
    splice = Splice(coder, edits=[Edit(latent, "add", 12.0)]).write(agreement_model())
    for shown, writes in zip(texts, ([], [splice]), strict=False):
        assert shown == PROMPT + generate(agreement_model(), PROMPT, writes=writes, max_new_tokens=6)[0].text
    assert len(texts) == 3, "and one with a random direction"
    features.picture("features")
    page.get_by_text("The command and the Python that do the same").click()
    command = page.get_by_label("Steer").locator("pre").first
    command.wait_for()
    assert f"--latent {latent} --factors 12" in command.inner_text()


# Both


def hostile_models() -> Models:
    """A graph and a coder whose every text is hostile."""
    word = " ".join(HOSTILE)
    graph = circuit_by_hand(word=word, positions=tuple(word + one for one in TOKENS))
    graph = graph.named({str(one.feature): word for one in graph.nodes})
    from served_for_tests import readings

    read = readings(coders()[1])
    text = replace(read.text, words={token: word for token in read.text.words})
    said = {one: replace(told, text=word) for one, told in read.descriptions.items()}
    read = replace(read, text=text, descriptions=said)
    return Models(
        {"tiny": tiny_model()},
        circuits={"bad": OpenedCircuit(graph.view("bad"), "bad.json", graph)},
        coders={"bad": OpenedCoder("bad", read.site, read.n_latents, readings=read)},
    )


def test_hostile_text_is_inert_in_both(browser: Any, tmp_path: Path):
    with running(tmp_path, files=None, models=hostile_models()) as server:
        for view in ("Circuits", "Features"):
            watched = opened(browser, server, view)
            page = watched.page
            page.locator(".stage, .latents .list").focus()
            for key in ("ArrowUp", "ArrowUp", "Enter"):
                page.keyboard.press(key)
            if view == "Circuits":
                assert "looked at only" in page.locator("main").inner_text()
            shown = page.locator("main").inner_text()
            assert page.evaluate("window.hit") is None
            assert page.locator("main img, main iframe, main script").count() == 0
            assert "<img" in shown and not re.search(UNSEEN, re.sub(r"\n|\t", " ", shown))
            watched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["Circuits", "Features"])
def test_nothing_serious_is_wrong_for_those_who_see_or_hear_little(browser, server, paths, view: str, scheme: str):
    watched = opened(browser, server, view, color_scheme=scheme)
    page = watched.page
    if view == "Circuits":
        pin(page, latents_of(paths)[0])
        page.get_by_role("button", name="Ablate").click()
    else:
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_role("button", name="Write").click()
    page.wait_for_selector("[data-state=done]")
    page.wait_for_timeout(300)
    serious = watched.serious()
    watched.picture(f"{view.lower()}-{scheme}")
    watched.close()
    assert serious == []


def test_a_narrow_screen_is_enough(browser: Any, server: Any):
    for view in ("Circuits", "Features"):
        watched = opened(browser, server, view, viewport={"width": 360, "height": 740})
        watched.page.wait_for_timeout(100)
        assert watched.page.evaluate("document.scrollingElement.scrollWidth") <= 360, view
        watched.picture(f"narrow-{view.lower()}")
        watched.close()


def test_what_is_not_opened_is_told(browser: Any, tmp_path: Path):
    with running(tmp_path, files=None) as server:
        watched = Watched(browser)
        page = watched.page
        page.goto(server.access.link())
        page.wait_for_selector("[data-prompt]")
        for view, option in (("Circuits", "--circuit"), ("Features", "--coder")):
            page.get_by_role("button", name=view).click()
            assert option in page.locator("main").inner_text()
        watched.close()


# Runs and pictures


def look(page: Any, text: str) -> None:
    page.fill("[data-prompt]", text)
    page.click("button.main")
    page.wait_for_selector("[data-state=done]")


def test_two_runs_are_compared_and_what_differs_is_marked(browser: Any, tmp_path: Path):
    with running(tmp_path, files=None) as server:
        watched = Watched(browser)
        page = watched.page
        page.goto(server.access.link())
        page.wait_for_selector("[data-prompt]")
        for text in ("The cat is", "The cat of"):
            look(page, text)
        page.get_by_role("button", name="Runs").click()
        for text in ("The cat is", "The cat of"):
            page.locator("tr", has_text=text).get_by_role("button", name="Show").click()
        page.wait_for_selector("text=≠ marks cells")
        texts = [
            {cell.get_attribute("data-key"): cell.locator("bdi").inner_text() for cell in grid.locator("td.done").all()}
            for grid in page.locator(".shown section").all()
        ]
        differing = {key for key, text in texts[0].items() if texts[1].get(key) != text}
        marked = {
            one.get_attribute("data-key") for one in page.locator(".shown section").first.locator("td.differs").all()
        }
        assert marked == differing and len(marked) > 0
        assert f"{len(marked)} of {len(texts[0])}" in page.locator("p", has_text="≠ marks").inner_text()
        watched.picture("compared-tiny")
        watched.close()


def test_a_heat_map_is_saved_as_a_picture(browser: Any, tmp_path: Path):
    with running(tmp_path, files=None) as server:
        watched = Watched(browser)
        page = watched.page
        page.goto(server.access.link())
        page.wait_for_selector("[data-prompt]")
        look(page, HOSTILE[0])
        saved = {}
        for kind in ("PNG", "SVG"):
            with page.expect_download() as waiting:
                page.get_by_role("button", name=f"Save {kind}").click()
            saved[kind] = tmp_path / waiting.value.suggested_filename
            waiting.value.save_as(saved[kind])
        assert saved["PNG"].read_bytes().startswith(b"\x89PNG")
        drawn = saved["SVG"].read_text("utf-8")
        assert drawn.startswith("<svg") and "var(" not in drawn and "<img" not in drawn and "style" not in drawn
        shapes = [one.tag.rpartition("}")[2] for one in ElementTree.fromstring(drawn).iter()]
        assert shapes.count("rect") == 1 + page.locator("td.done").count()
        watched.close()
