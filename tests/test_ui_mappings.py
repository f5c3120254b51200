"""The app with fitted lenses, and with two models, in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import browsing
from bathyscope import lenses
from bathyscope.cli.served_files import ServedFiles
from bathyscope.mappings import Affine
from bathyscope.web.models import Models
from browsing import Watched, chromium, driving, look, needs_app
from conftest import tiny_model
from mappings_for_tests import save_mappings
from web_server import TEXT, running

pytestmark = [pytest.mark.browser, needs_app]
app = browsing.app


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driving() as driver, chromium(driver) as one:
        yield one


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_mappings(tmp_path_factory.mktemp("files"), tiny_model("llama"), tiny_model("gpt2"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, paths: dict[str, Path]) -> Iterator[Any]:
    loaded = {"one": tiny_model("llama"), "two": tiny_model("gpt2")}
    mappings = ServedFiles(None, None, None, None, list(paths.values())).mappings(loaded)
    with running(tmp_path_factory.mktemp("ui"), files=None, models=Models(loaded, mappings=mappings)) as one:
        yield one


def texts(page: Any, section: str) -> dict[str, str]:
    cells = page.get_by_label(section, exact=True).locator("td.done")
    return dict(
        cells.evaluate_all("(all) => all.map((one) => [one.dataset.key, one.querySelector('bdi').textContent])")
    )


def offered(page: Any, label: str) -> list[str]:
    return page.get_by_label(label).locator("option").all_inner_texts()


def test_the_lenses_of_the_chosen_model_are_offered_and_looked_through(app: Watched, paths: dict[str, Path]):
    page = app.page
    page.get_by_role("button", name="Lenses").click()
    fitted = [one for one in offered(page, "Lens") if ":" in one]
    assert "tuned-lens: tuned" in fitted and "future-lens: soft" in fitted
    assert not any("across" in one or "two" in one for one in fitted)
    page.get_by_label("Lens").select_option("tuned-lens: tuned")
    look(page)
    layers = tuple(range(tiny_model().n_layers - 1))
    expected = lenses.tuned_lens(tiny_model(), TEXT, Affine.load(paths["tuned"]), layer=layers)
    shown = texts(page, "Answer")
    assert len(shown) == len(expected.cells) and page.locator("text=tuned-lens: what each layer").count() == 1
    said = {f"{one.layer}|{one.position}": one.text for one in expected.cells if one.text.isalnum()}
    assert said and {key: shown[key] for key in said} == said
    page.locator('td[data-key="1|2"]').click()
    page.get_by_label("One cell").locator("pre").first.wait_for()
    assert f"--mapping {paths['tuned']}" in page.get_by_label("One cell").locator("pre").first.inner_text()
    app.picture("lenses-fitted")
    page.locator("label.model select").select_option("two")
    assert [one for one in offered(page, "Lens") if ":" in one] == ["tuned-lens: tuned-two"]


def test_a_lens_that_writes_and_one_that_pushes_have_their_own_choices(app: Watched):
    page = app.page
    page.get_by_role("button", name="Lenses").click()
    page.get_by_text("More choices").click()
    page.get_by_label("Lens").select_option("selfie")
    page.get_by_label("Tokens written").fill("2")
    assert page.get_by_label("Tokens kept").count() == 0
    look(page)
    assert page.locator("text=how much the text depends on what was written").count() == 1
    page.get_by_label("Lens").select_option("backward-lens")
    page.get_by_label("Next token that is pushed for").fill("a")
    assert page.get_by_label("Tokens written").count() == 0
    look(page)
    assert page.locator("text=what a push towards a next token would write").count() == 1
    assert texts(page, "Answer")


def test_two_models_stand_side_by_side(app: Watched):
    page = app.page
    page.get_by_role("button", name="Lenses").click()
    assert offered(page, "Another model beside it") == ["none", "two"]
    page.get_by_label("Another model beside it").select_option("two")
    look(page)
    page.wait_for_selector("text=say something else than the other model")
    own, others = texts(page, "Answer"), texts(page, "Answer of the other model")
    for name, shown in (("llama", own), ("gpt2", others)):
        expected = lenses.logit_lens(tiny_model(name), TEXT).cells
        said = {f"{one.layer}|{one.position}": one.text for one in expected if one.text.isalnum() and one.layer >= 0}
        assert said and {key: shown[key] for key in said} == said
    differ = sum(own[key] != others.get(key) for key in own)
    assert f"≠ marks {differ} of {len(own)} cells" in page.locator("main").inner_text() and differ
    page.locator('td[data-key="1|1"]').first.hover()
    assert page.locator("thead th.lit").count() == 2
    app.picture("two-models")
    page.reload()
    page.wait_for_selector("text=say something else than the other model")


def test_one_model_says_what_another_holds(app: Watched):
    page = app.page
    page.get_by_text("More choices").click()
    assert offered(page, "Written into model") == ["the same", "one", "two"]
    assert "across" not in offered(page, "Mapping")
    page.get_by_label("Written into model").select_option("two")
    page.get_by_label("Mapping").select_option("across")
    look(page)
    assert "llama to gpt2" in page.locator("main dl").first.inner_text()
    assert {key.split("|")[0] for key in texts(page, "Answer")} == {"0", "2"}
    app.picture("another-model")


def test_stored_causal_maps_are_shown_again(app: Watched):
    page = app.page
    page.get_by_role("button", name="Causal").click()
    page.get_by_role("button", name="Attention knockout").click()
    page.get_by_label("Answer").fill("o")
    look(page, "Kept as a map")
    shown = texts(page, "Answer")
    page.get_by_role("button", name="Runs").click()
    row = page.locator("tr", has_text="Kept as a map")
    assert "attention knockout" in row.inner_text()
    row.get_by_role("button", name="Show").click()
    page.wait_for_selector("td.done")
    cells = page.locator(".shown td.done")
    again = cells.evaluate_all("(all) => all.map((one) => [one.dataset.key, one.querySelector('bdi').textContent])")
    assert dict(again) == shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_wrong_for_those_who_see_or_hear_little(browser: Any, server: Any, scheme: str):
    watched = Watched(browser, color_scheme=scheme)
    page = watched.page
    page.goto(server.access.link())
    page.get_by_role("button", name="Lenses").click()
    page.get_by_label("Another model beside it").select_option("two")
    look(page)
    page.wait_for_selector("text=say something else than the other model")
    page.wait_for_timeout(300)
    serious = watched.serious()
    watched.picture(f"two-models-{scheme}")
    watched.close()
    assert serious == []
