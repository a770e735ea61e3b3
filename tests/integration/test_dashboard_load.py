"""What the dashboard costs, its browser and its router, with much to show.

200 models, 500 answers under way that each get a token a second, so five changes a second. Counted
is processor time, in percent of one core. The router's is the difference to the time before the
page was open: the answers themselves cost it more than the page.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession

from tests.soak.client import encode

from .browser import SHOTS, Dashboard, browser
from .conftest import Router, wait_until

pytestmark = pytest.mark.ui
MODELS, REQUESTS = 200, 500
SECONDS = 10.0
IN_BROWSER, IN_ROUTER = 10.0, 2.0
"""Percent of one core."""


@pytest.fixture
def clients(router: Router) -> Iterator[list[socket.socket]]:
    """500 clients whose answers are under way. They read nothing, and so cost nothing."""
    busy = router.standin("busy", interval=1.0, tokens=1000)
    others = {f"model-{number:03d}": router.standin("x") for number in range(MODELS - 1)}
    router.write({"busy": busy, **others})
    router.start()
    request = encode("busy", stream=True)
    made = []
    for _ in range(REQUESTS):
        client = socket.create_connection(("127.0.0.1", router.port))
        client.sendall(request)
        made.append(client)
    wait_until(
        lambda: router.status()["models"]["busy"]["in_flight"] == REQUESTS, "all are served", 60
    )
    yield made
    for client in made:
        client.close()


def cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def browser_cpu(session: CDPSession) -> dict[str, float]:
    """Seconds of processor time so far, by kind of Chromium's processes."""
    found: dict[str, float] = {}
    for process in session.send("SystemInfo.getProcessInfo")["processInfo"]:
        found[process["type"]] = found.get(process["type"], 0.0) + process["cpuTime"]
    return found


def test_the_page_and_its_stream_cost_little(router: Router, clients: list[socket.socket]) -> None:
    assert router.process is not None
    pid = router.process.pid
    time.sleep(2)
    before = cpu(pid), time.monotonic()
    time.sleep(SECONDS)
    alone = 100 * (cpu(pid) - before[0]) / (time.monotonic() - before[1])
    with browser() as chrome:
        page = chrome.new_page(viewport={"width": 1360, "height": 850})
        board = Dashboard(page, router.url)
        board.open()
        page.wait_for_function(
            f"document.querySelectorAll('#requests .rows .row').length == {REQUESTS}"
        )
        page.evaluate(
            "window.changes = 0; new MutationObserver(() => window.changes++)"
            ".observe(document.querySelector('#requests .rows'),"
            " {subtree: true, characterData: true})"
        )
        session = chrome.new_browser_cdp_session()
        time.sleep(2)
        # one change a tick: what came in the meantime was the page's own beginning
        page.evaluate("window.changes = 0")
        first = browser_cpu(session), cpu(pid), time.monotonic()
        time.sleep(SECONDS)
        last = browser_cpu(session), cpu(pid), time.monotonic()
        changes = page.evaluate("window.changes")
        board.shot("much")
        assert board.complaints == []
    wall = last[2] - first[2]
    used = {kind: 100 * (last[0][kind] - first[0][kind]) / wall for kind in first[0]}
    watched = 100 * (last[1] - first[1]) / wall
    told = (
        f"browser: {', '.join(f'{kind} {share:.1f} %' for kind, share in used.items())}; "
        f"router: {alone:.1f} % alone, {watched:.1f} % looked at; "
        f"{changes / wall:.1f} changes of the page a second"
    )
    print(told)
    (SHOTS / "load.txt").write_text(told + "\n")
    assert changes / wall > 3, told
    assert used["renderer"] < IN_BROWSER, told
    assert watched - alone < IN_ROUTER, told
