"""What the dashboard costs, its browser and its router, with much to show.

200 models, and 500 answers under way that get five tokens a second each: every change of the
picture has them all. Counted is processor time, for each change, and told as percent of one core at
five changes a second: so a machine that is busy with other things changes nothing about it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import CDPSession

from llm_router.api.auth import ALL_SCOPES, Caller
from llm_router.api.board import Board
from llm_router.api.exchange import Call, Exchange
from llm_router.api.paths import CHAT
from llm_router.api.services import Services, running
from llm_router.api.sse import Measured
from llm_router.config.load import load_settings
from tests.soak.client import encode

from .browser import SHOTS, Dashboard, browser
from .conftest import Router, wait_until

pytestmark = pytest.mark.ui
MODELS, REQUESTS = 200, 500
SECONDS = 10.0
A_SECOND, TURNS = 5, 100
IN_BROWSER, IN_ROUTER = 10.0, 2.0
"""Percent of one core."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clients(router: Router) -> Iterator[None]:
    """500 clients whose answers are under way. They read nothing, and so cost nothing."""
    busy = router.standin("busy", interval=0.2, tokens=5000)
    others = {f"model-{number:03d}": router.standin("x") for number in range(MODELS - 1)}
    router.write({"busy": busy, **others})
    router.start()
    request = encode("busy", stream=True)
    with ExitStack() as clients:
        for _ in range(REQUESTS):
            client = socket.create_connection(("127.0.0.1", router.port))
            clients.callback(client.close)
            client.sendall(request)
        wait_until(lambda: answered(router) == REQUESTS, "all are answered", 90)
        yield


def answered(router: Router) -> int:
    """How many requests have their model; the router has much to do when this is first asked."""
    status = httpx.get(router.url + "/admin/status", timeout=60).json()
    return int(status["models"]["busy"]["in_flight"])


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


def test_the_page_and_its_stream_cost_little(router: Router, clients: None) -> None:
    assert router.process is not None
    pid = router.process.pid
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
        page.evaluate("document.querySelector('#requests').scrollIntoView()")
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
    share = {kind: 100 * A_SECOND * (last[0][kind] - first[0][kind]) / changes for kind in first[0]}
    told = (
        f"of one core at {A_SECOND} changes a second: "
        f"{', '.join(f'{kind} {part:.1f} %' for kind, part in share.items())}; "
        f"seen {changes / wall:.1f} changes a second; the router, its {REQUESTS} answers and all: "
        f"{100 * (last[1] - first[1]) / wall:.1f} %"
    )
    print(told)
    (SHOTS / "load.txt").write_text(told + "\n")
    assert changes > SECONDS, told
    assert share["renderer"] < IN_BROWSER, told


@pytest.mark.anyio
async def test_a_change_costs_the_router_little(router: Router) -> None:
    """The whole of what is done for a change, with every request's tokens new each time."""
    router.write({f"model-{number:03d}": router.standin("x") for number in range(MODELS)})
    settings = load_settings(router.config)
    async with running(settings) as services:
        board = Board(services)
        exchanges = [exchange(services, number) for number in range(REQUESTS)]
        services.in_flight = {one.number: one for one in exchanges}
        viewer = board.follow()
        assert (await anext(viewer)).startswith(b"event: snapshot\n")
        began, sent = time.thread_time(), 0
        for turn in range(TURNS):
            for one in exchanges:
                assert one.measured is not None
                one.measured.token_events += 1
                one.measured.last_token = one.began + 1 + turn / 10
            board._tell_changes()
            delta = await anext(viewer)
            sent += len(delta)
            assert delta.startswith(b'event: delta\ndata: {"progress": [[0, "model-000", 1, ')
        share = 100 * A_SECOND * (time.thread_time() - began) / TURNS
        await viewer.aclose()
    told = f"router: {share:.2f} % at {A_SECOND} changes a second of {sent // TURNS} bytes"
    print(told)
    with (SHOTS / "load.txt").open("a") as file:
        file.write(told + "\n")
    assert share < IN_ROUTER, told


def exchange(services: Services, number: int) -> Exchange:
    """An answer under way."""
    name = f"model-{number % MODELS:03d}"
    began = services.clock()
    return Exchange(
        number,
        "/v1/chat/completions",
        CHAT,
        Caller("anyone", ALL_SCOPES),
        services.models[name],
        lambda _: Call("POST", "", {}, ()),
        stream=True,
        style="off",
        began=began,
        base={},
        wants_usage=False,
        served=True,
        measured=Measured(first_token=began + 0.2),
        sent=began + 0.1,
    )
