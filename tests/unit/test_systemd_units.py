"""SystemdUnits without a systemd: its words, and what it says when there is no bus.

What it does with one is tests/systemd's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from typing_extensions import Self

from llm_router.config.schema import Model
from llm_router.units import systemd
from llm_router.units.base import UnitError, UnitState
from llm_router.units.dbus import BusUnavailable, UnitFacts
from llm_router.units.systemd import SystemdUnits, state_of

MODEL = Model(name="m", backend="vllm", service="m.service")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("active", "pid", "result", "state"),
    [
        ("inactive", 0, "success", UnitState("inactive")),
        ("active", 7, "success", UnitState("active", 7)),
        ("reloading", 7, "success", UnitState("active", 7)),
        ("refreshing", 7, "success", UnitState("active", 7)),
        ("maintenance", 0, "success", UnitState("deactivating")),
        ("failed", 0, "oom-kill", UnitState("failed", 0, "oom-kill")),
        ("activating", 0, "exit-code", UnitState("activating", 0, "exit-code")),
    ],
)
def test_systemds_words_as_ours(active: str, pid: int, result: str, state: UnitState) -> None:
    assert state_of(UnitFacts("m.service", "loaded", active, pid, result, False)) == state


@pytest.mark.anyio
async def test_without_a_bus_it_says_so_and_goes_on_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    with anyio.fail_after(5):
        async with SystemdUnits({"m": MODEL}, str(tmp_path / "helper.sock")) as units:
            problem = await units.problem()
            assert problem == "the system bus cannot be reached: No such file or directory"
            with pytest.raises(UnitError, match="the system bus cannot be reached"):
                await units.state(MODEL)
            with pytest.raises(UnitError, match="the helper cannot be reached"):
                await units.start(MODEL)


class Manager:
    """A connection whose answers a test decides; every one of them counts as a new one."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._host.connections += 1
        self._host.newest = self
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def facts(self, unit: str) -> UnitFacts:
        self._host.asked += 1
        error = self._host.failures.pop(self._host.asked, None)
        if error is not None:
            raise error
        return UnitFacts(unit, "loaded", "active", self._host.pid, "success", False)

    async def watch(self, unit: str, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def gone(self) -> None:
        await self._gone.wait()


class Host:
    """Every connection to it, and what goes wrong at which question."""

    def __init__(self) -> None:
        self.connections = self.asked = 0
        self.pid = 7
        self.failures: dict[int, Exception] = {}
        self.newest = Manager(self)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(systemd, "SystemdManager", lambda: Manager(host))
    monkeypatch.setattr(systemd, "FIRST_BACKOFF", 0.001)
    return host


@pytest.mark.anyio
@pytest.mark.parametrize(
    "failure", [BusUnavailable("systemd did not answer Get within 30 s"), RuntimeError("odd")]
)
@pytest.mark.parametrize("question", [1, 2])  # before it watches, and while it does
async def test_no_failure_ends_the_watching(host: Host, failure: Exception, question: int) -> None:
    host.failures[question] = failure
    changes: list[UnitState] = []
    with anyio.fail_after(5):
        async with SystemdUnits({"m": MODEL}, "/nowhere") as units:
            units.subscribe(lambda _, state: changes.append(state))
            while host.connections < 2 or await units.problem() == str(failure):
                await anyio.sleep(0.001)
            host.pid = 8
            host.newest.changed()
            while not changes:
                await anyio.sleep(0.001)
    assert changes == [UnitState("active", 8)]


@pytest.mark.anyio
async def test_an_unforeseen_failure_is_told_and_logged_with_its_trace(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.failures = {number: RuntimeError("odd") for number in range(1, 1000)}
    with anyio.fail_after(5), caplog.at_level(logging.ERROR):
        async with SystemdUnits({"m": MODEL}, "/nowhere") as units:
            assert await units.problem() == "the units cannot be watched: RuntimeError: odd"
    assert caplog.records[0].exc_info is not None
    assert host.connections < 20


@pytest.mark.anyio
async def test_a_bus_that_was_away_for_long_is_tried_every_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    pauses: list[float] = []
    enough = asyncio.Event()

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 30:
            enough.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(systemd.anyio, "sleep", no_pause)
    with anyio.fail_after(5), caplog.at_level(logging.WARNING):
        async with SystemdUnits({"m": MODEL}, str(tmp_path / "helper.sock")):
            await enough.wait()
    assert max(pauses) <= 1
    assert len([r for r in caplog.records if "cannot be reached" in r.message]) == 1
