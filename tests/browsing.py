"""What tests in a real browser share: Chromium, pages that are watched, and what they must never do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from web_server import TEXT

ROOT = Path(__file__).parents[1]
DIST = ROOT / "src" / "bathyscope" / "web" / "dist"
PICTURES = ROOT / "build" / "pictures"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"
HOSTILE = [
    "<img src=x onerror=window.hit=1>",
    "</script><script>window.hit=1</script>",
    "{@html x} ${window.hit=1} {{constructor}}",
    "\u202egnp.exe \u2066iso\u2069 \u200bzero",
    "\x1b[31mred\x1b]52;c;aGk=\x07",
    "=cmd|' /C calc'!A0",
    "[bold]rich[/bold]",
]
UNSEEN = "[\x00-\x08\x1b\u200b\u202a-\u202e\u2066-\u2069]"
"""What nobody sees, or what turns text around: none of it may reach a page."""


def needs_browser(test: Any) -> Any:
    """For `make test-ui` only, which installs Chromium; skipped where there is none."""
    return pytest.mark.browser(pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")(test))


needs_app = pytest.mark.skipif(not (DIST / "index.html").exists(), reason="make ui builds the app")


@contextmanager
def driving() -> Iterator[Any]:
    """What drives browsers; tests are skipped where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="make test-ui installs it")
    with playwright.sync_playwright() as one:
        yield one


@contextmanager
def chromium(driver: Any, *arguments: str) -> Iterator[Any]:
    """A browser of its own, with a profile that nobody else uses."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET.split(), *arguments])
    yield browser
    browser.close()


class Watched:
    """A page, and whatever it did that it should not have done.

    Args:
        browser: Chromium.
        expected: parts of console messages that a test provokes.
        options: of the browser's context: size, colour scheme.
    """

    def __init__(self, browser: Any, *expected: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.faults: list[str] = []
        self._expected = expected
        self.context.route("**", self._only_here)
        self.page.on("console", lambda one: self._note(one.type, one.text))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda one: (self.faults.append(f"dialog: {one.message}"), one.dismiss()))

    def close(self) -> None:
        self.context.close()
        assert self.faults == [], self.faults

    def picture(self, name: str) -> None:
        """Keep a picture of the page for people."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(PICTURES / f"{name}.png"), full_page=True)

    def serious(self) -> list[tuple[Any, ...]]:
        """What is seriously wrong for those who see or hear little."""
        self.page.evaluate((ROOT / "ui/node_modules/axe-core/axe.min.js").read_text("utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            (one["id"], [node["html"][:120] for node in one["nodes"][:3]], one["nodes"][0]["failureSummary"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self._expected):
            self.faults.append(f"{kind}: {text}")

    def _only_here(self, route: Any) -> None:
        url = route.request.url
        if urlsplit(url).hostname == "127.0.0.1" or url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.faults.append(f"request: {url}")
            route.abort()


@pytest.fixture
def app(browser: Any, server: Any) -> Iterator[Watched]:
    """The app's first view, with the browser and the server of the file that takes it."""
    watched = Watched(browser)
    watched.page.goto(server.access.link())
    watched.page.wait_for_selector("[data-prompt]")
    yield watched
    watched.close()


def look(page: Any, text: str = TEXT) -> None:
    """Ask about a text, and wait for the answer."""
    page.fill("[data-prompt]", text)
    page.click("button.main")
    page.wait_for_selector("[data-state=done]")


class FilePage:
    """Saved pages, opened one after another, without a network; each has to say when it is ready.

    Args:
        browser: Chromium.
    """

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._watched: Watched | None = None

    def open(self, path: Path, fragment: str = "", *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        self.close()
        size = {"viewport": {"width": width, "height": height}, "is_mobile": width < 500}
        self._watched = Watched(self._browser, **size, color_scheme="dark" if dark else "light", offline=True)
        self.page.goto(path.resolve().as_uri() + fragment)
        self.page.wait_for_function("document.documentElement?.dataset.ready")

    @property
    def page(self) -> Any:
        assert self._watched, "no page is open"
        return self._watched.page

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        self.page.keyboard.insert_text(text)

    def complaints(self) -> list[str]:
        """What the page did since it was opened that it should not have done."""
        assert self._watched, "no page is open"
        return self._watched.faults

    def close(self) -> None:
        if self._watched:
            self._watched.context.close()


@contextmanager
def file_pages() -> Iterator[FilePage]:
    """A browser for saved pages."""
    with driving() as driver, chromium(driver) as one:
        yield FilePage(one)
