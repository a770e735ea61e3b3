"""A real Chromium that looks at a router's dashboard, and what a test asks of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from .conftest import ROOT

SHOTS = ROOT / ".cache/reports/ui"
"""Where every run puts its screenshots."""
EXPECTED_NOISE = (
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED",
    " of 401",
    " of 403",
    " of 503",
)
"""What Chromium writes by itself when a router is gone, or refuses."""
PATIENCE = 20_000
"""Milliseconds."""
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def chromium() -> str:
    """The program's path. Without one the test is skipped, and fails in CI."""
    found = shutil.which("chromium")
    if found is None:
        what = "Chromium is not installed here, and tools/bootstrap chromium could not do it"
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)
    return found


@contextmanager
def browser(*options: str) -> Iterator[Browser]:
    """Chromium without a window; ``options`` are its command line's."""
    path = chromium()
    # its sandbox does not work for root, and what it loads here is the dashboard alone
    arguments = [*options, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=arguments)
        yield made
        made.close()


@dataclass
class Dashboard:
    """A tab with the dashboard in it, and everything that it complained of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        noise = any(word in message.text for word in EXPECTED_NOISE)
        if message.type in ("error", "warning") and not noise:
            self.complaints.append(message.text)

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)

    def open(self, path: str = "/") -> None:
        self.page.goto(self.url + path)
        self.live()

    def live(self) -> None:
        """Wait until it is drawn from a connection that stands."""
        self.page.wait_for_selector("#connection[data-state=live]")

    def row(self, model: str) -> Any:
        """The model's row of the table."""
        return self.page.locator(
            "#models .rows .row", has=self.page.get_by_title(model, exact=True)
        )

    def state(self, model: str, state: str) -> None:
        """Wait until the model's row says so."""
        self.row(model).and_(self.page.locator(f"[data-state={state}]")).wait_for()

    def press(self, name: str) -> Any:
        """The button that a screen reader calls so."""
        return self.page.get_by_role("button", name=name, exact=True)

    def shot(self, name: str) -> None:
        """Keep a picture of what is seen now."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def is_accessible(self) -> None:
        """axe-core finds nothing to say against the page as it is now."""
        found = Axe().run(self.page, options=RULES).response["violations"]
        told = [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found]
        assert not told, json.dumps(told, indent=1)

    def fits(self) -> None:
        """Nothing is wider than the window."""
        wide = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{wide} px too wide"


def weight(path: Path) -> int:
    """Bytes of all files of the page."""
    return sum(file.stat().st_size for file in path.iterdir() if not file.name.endswith("LICENSE"))
