"""What tests in a real browser share: Chromium, pages that are watched, and what they must never do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="make test-ui installs it")

ROOT = Path(__file__).parents[1]
DIST = ROOT / "src" / "bathyscope" / "web" / "dist"
PICTURES = ROOT / "build" / "pictures"
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"


@contextmanager
def chromium(driver: Any, *arguments: str) -> Iterator[Any]:
    """A browser of its own, with a profile that nobody else uses."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium")
    browser = driver.chromium.launch(executable_path=path, args=[*QUIET.split(), *arguments])
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
        assert self.faults == []

    def picture(self, name: str) -> None:
        """Keep a picture of the page for people."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(PICTURES / f"{name}.png"), full_page=True)

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
