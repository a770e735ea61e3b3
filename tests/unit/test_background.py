"""Work beside requests: a fault in it is logged, counted, and never its silent end."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import llm_router
from llm_router import background
from llm_router.api import series as series_module
from llm_router.api.activity import Activity
from llm_router.api.auth import Caller
from llm_router.api.board import Board
from llm_router.api.errors import bad_request
from llm_router.api.exchange import Call, Exchange
from llm_router.api.metrics import Metrics
from llm_router.api.paths import CHAT
from llm_router.api.series import Series
from llm_router.api.services import Services
from llm_router.api.sse import Measured
from llm_router.background import in_background, keep_running
from llm_router.events import BackgroundFailed, Event, EventStream
from llm_router.scheduler.core import Core, Limits
from llm_router.scheduler.service import Scheduler

from .test_switcher import FakeUnits, load, router

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(background, "LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(series_module, "EVERY", 0.001)


async def until(fact: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not fact():
            await anyio.sleep(0.001)


class Fault(Exception):
    pass


async def test_work_that_fails_is_logged_and_counted_and_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, told, runs = EventStream(), list[Event](), 0
    events.subscribe(told.append)

    async def no_switch(_: object) -> None:
        raise AssertionError

    metrics = Metrics(Scheduler(Core({"a": "g"}, Limits()), no_switch), events, set)
    assert b'background_failures_total{task="samples"} 0.0' in metrics.text()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise Fault("broken")
        await asyncio.Event().wait()

    async with in_background("samples", work, events):
        await until(lambda: runs == 3)
    assert told == [BackgroundFailed("samples", "Fault('broken')")] * 2
    assert b'background_failures_total{task="samples"} 2.0' in metrics.text()
    assert caplog.text.count("the background task 'samples' failed") == 2
    assert "Traceback" in caplog.text


async def test_work_that_returns_is_over() -> None:
    async def work() -> None:
        return

    with anyio.fail_after(5):
        await keep_running("watchdog", work, EventStream())


async def test_the_charts_go_on_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that had ended kept the last 10,000 requests with their bodies, for good."""
    async with router(monkeypatch, {"a": {}}, FakeUnits()) as services:
        series = Series(services)
        services.gpus.latest = [{"memory_used": None, "memory_total": 1, "utilization": 0}]
        async with series.sampling():
            await anyio.sleep(0.01)
            assert not series.points
            services.gpus.latest = []
            await until(lambda: bool(series.points))


async def test_a_gpu_that_reports_no_memory_is_drawn_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with router(monkeypatch, {"a": {}}, FakeUnits()) as services:
        services.gpus.latest = [{"memory_used": 0, "memory_total": 0, "utilization": None}]
        assert Series(services)._sample().gpu_memory == (0.0,)


async def test_the_dashboard_goes_on_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_router.api.board.TICK", 0.001)
    async with router(monkeypatch, {"a": {}}, FakeUnits()) as services:
        board = Board(services)
        faults = 2

        def look(look: Callable[[], Any] = board._look) -> Any:
            nonlocal faults
            if faults:
                faults -= 1
                raise Fault
            return look()

        async with board.running():
            stream = board.follow()
            with anyio.fail_after(5):
                await anext(stream)
                monkeypatch.setattr(board, "_look", look)
                await until(lambda: faults == 0)
                await load(services, "a")
                assert (await anext(stream)).startswith(b"event: delta")
            await stream.aclose()


async def test_a_fault_in_one_switch_or_in_the_schedulers_loop_ends_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cancelled the router's whole task group: nothing was ever loaded again."""
    models = {"a": {"group": "g"}, "b": {"group": "h"}}
    async with router(monkeypatch, models, FakeUnits()) as services:
        scheduler = services.scheduler
        faults = ["on_ended", "next_wakeup"]

        def ended(_: str, told: Callable[[str], None] = scheduler.on_ended) -> None:
            if "on_ended" in faults:
                faults.remove("on_ended")
                raise Fault("on_ended")
            told(_)

        def wakeup(next_wakeup: Callable[[], float | None] = scheduler.core.next_wakeup) -> Any:
            task = asyncio.current_task()
            inside = task is not None and "keep_running" in repr(task)
            if inside and "next_wakeup" in faults:
                faults.remove("next_wakeup")
                raise Fault("next_wakeup")
            return next_wakeup()

        monkeypatch.setattr(scheduler, "on_ended", ended)
        monkeypatch.setattr(scheduler.core, "next_wakeup", wakeup)
        with anyio.fail_after(5):
            await load(services, "a")
            await load(services, "b")
            await until(lambda: not faults)
            scheduler.load_in_background("a")
            await until(lambda: services.state_of("a") == "loaded")
    assert "Fault: on_ended" in caplog.text
    assert "Fault: next_wakeup" in caplog.text


async def test_a_preload_that_fails_inside_the_router_leaves_the_group_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise Fault("preload")

    monkeypatch.setattr("llm_router.api.services.preload", fails)
    async with router(monkeypatch, {"a": {}}, FakeUnits()) as services:
        assert services.reconciler.unknown() == []
        await load(services, "a")
    assert "Fault: preload" in caplog.text


async def test_weights_that_cannot_be_read_ahead_for_a_fault_of_the_router_cost_no_load(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Units(FakeUnits):
        async def prewarm(self, model: Any) -> int:
            raise Fault("prewarm")

    with caplog.at_level(logging.ERROR):
        async with router(monkeypatch, {"a": {}}, Units()) as services:
            await load(services, "a")
    assert "the background task 'read_ahead' failed" in caplog.text


async def test_nothing_keeps_a_request_for_the_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with router(monkeypatch, {"a": {}}, FakeUnits()) as services:
        body = bytearray(1_000_000)
        exchange = _exchange(services, body)
        exchange.measured = Measured(first_token=2.0)
        exchange.sent = 1.5
        activity = Activity()
        activity.ended(services, exchange, 200, services.clock())
        gone = weakref.ref(exchange)
        del exchange
        gc.collect()
        assert gone() is None
        assert [first.ttft for first in activity.first_tokens] == [0.5]


async def test_a_request_whose_model_has_another_engine_by_now_is_noted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What its engine was sent cannot be made once more."""

    def refuses(_: object) -> Call:
        raise bad_request("another engine")

    recent = {"capture": True}
    async with router(monkeypatch, {"a": {}}, FakeUnits(), recent=recent) as services:
        exchange = _exchange(services, bytearray(b"text"))
        services.activity.ended(services, exchange, 200, services.clock())
        exchange.call = refuses
        services.activity.ended(services, exchange, 200, services.clock())
        assert [entry["request"] for entry in services.activity.recent] == ["text", None]


def _exchange(services: Services, body: bytearray) -> Exchange:
    return Exchange(
        1,
        CHAT.path,
        CHAT,
        Caller("k", frozenset()),
        services.models["a"],
        lambda _: Call("POST", "/", {}, (body,)),
        True,
        "off",
        services.clock(),
        {},
        False,
    )


def test_every_task_of_the_router_has_somebody_who_sees_its_failure() -> None:
    """`background` runs them, or they are awaited; these few are, or handle every fault inside."""
    package = Path(llm_router.__file__).parent
    tasks: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future"):
                tasks[str(path.relative_to(package))] += 1
    assert tasks == {
        "background.py": 1,
        "api/shared_call.py": 1,  # awaited by those who share it
        "runtime/reconcile.py": 3,  # kept running; a step, which handles all faults; run once
        "api/reload.py": 1,  # awaited by those who ask for it; what is wrong is in the log
        "serve.py": 3,  # two kept running; the shutdown
        "switcher/executor.py": 2,  # read ahead, which handles all faults
        "units/child.py": 1,  # handles all faults
        "units/systemd.py": 1,  # handles all faults
        "units/dbus.py": 1,  # waits for the end of a connection
    }
