"""The page of ``llm-router qualify`` in a real browser: one file, in any light and width."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from llm_router.qualify.compare import as_row, compare
from llm_router.qualify.page import as_html
from llm_router.qualify.report import CHECKS, Report, Row, as_text, read_report

from .browser import RULES, SHOTS, browser

pytestmark = pytest.mark.ui

LONG = "organisation/a-model-with-a-very-long-name-and-no-place-to-break-it-anywhere-0123456789-AWQ"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything that there can be."""
    before, now = _report(40.0), _report(90.0)
    now.comparison = compare(now, read_report(as_text(before)), 20)
    now.rows.append(as_row(now.comparison))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(as_html(now), encoding="utf-8")
    return path


def _report(load: float) -> Report:
    made = Report(1_700_000_000.0, 600, label="gpu1", seconds=312.4, finished=True)
    made.host = {"os": "Debian GNU/Linux 13", "cpus": 64, "memory_bytes": 2**39}
    made.versions = {"router": "0.1.0", "driver": f"580.{load:.0f}", "vllm": None}
    made.models = {name: {"backend": "vllm", "group": "default"} for name in ("gemma", LONG)}
    gpu: dict[str, Any] = {"index": 0, "name": "NVIDIA H200", "memory_total_bytes": 150 * 10**9}
    made.gpus = [gpu | {"compute_capability": "9.0", "persistence": True, "mig": None,
                        "power_limit_watts": 700.0}]  # fmt: skip
    for check in CHECKS:
        made.rows.append(Row(check, "", "passed", "as it should be", seconds=1.5))
    for name in made.models:
        held = {"load_seconds": load, "gpu_memory_held_bytes": 70 * 10**9}
        made.rows.append(Row("load", name, "passed", f"loaded in {load} s", "", load, held))
        rate = {"ttft_seconds_p50": 0.08, "tokens_per_second_p50": 91.2}
        made.rows.append(Row("speed", name, "passed", "5 streams", "", 4.0, rate))
        made.rows.append(Row("residency", name, "skipped", f"without --{LONG}", "sleep"))
    made.rows.append(Row("answer", LONG, "failed", f"the answer is from '{LONG}'"))
    return made


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("light", "light", 1200), ("dark", "dark", 1200), ("phone", "dark", 390)],
)
def test_it_can_be_read(
    chromium: Browser, page_file: Path, name: str, scheme: Literal["light", "dark"], width: int
) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"qualify-{name}.png", full_page=True)
    assert asked == [page_file.as_uri()], "it is one file"
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(15, 18, 20)" if scheme == "dark" else "rgb(243, 245, 246)")
    shown = page.locator("body").inner_text()
    for words in ("Qualification of gpu1", LONG, "580.90", "125.0", "65.2"):
        assert words in shown
    # axe runs as a script, which the page's own policy refuses to others
    with chromium.new_context(bypass_csp=True, color_scheme=scheme) as context:
        beside = context.new_page()
        beside.goto(page_file.as_uri())
        found = Axe().run(beside, options=RULES).response["violations"]
    told = [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found]
    assert not told, json.dumps(told, indent=1)
    page.close()
