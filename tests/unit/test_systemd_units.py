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
from llm_router.units.base import ManagerUnavailable, UnitError, UnitState
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


class Helper:
    """Stops the units of these models alone, as the helper goes by models.yml."""

    def __init__(self, names: list[str], fault: Exception | None = None) -> None:
        self.names, self.fault, self.stopped = names, fault, list[str]()

    async def stop(self, model: str, seconds: float) -> None:
        if self.fault is not None:
            raise self.fault
        if model not in self.names:
            raise UnitError(f"model {model!r} is not in models.yml")
        self.stopped.append(model)


@pytest.mark.anyio
async def test_the_engine_of_a_renamed_model_is_stopped_by_the_name_of_now(tmp_path: Path) -> None:
    """It ran before the router, so the helper has not started it for the old name."""
    units = SystemdUnits({"m": MODEL}, str(tmp_path / "helper.sock"))
    helper = Helper(["new", "other"])
    units._helper = helper  # type: ignore[assignment]
    with pytest.raises(UnitError, match=r"not in models\.yml"):
        await units.stop(MODEL, 1)  # no other model has its unit
    new = MODEL.model_copy(update={"name": "new"})
    other = MODEL.model_copy(update={"name": "other", "service": "other.service"})
    units.configure({"other": other, "new": new})
    await units.stop(MODEL, 1)
    assert helper.stopped == ["new"]
    helper.fault = ManagerUnavailable("the helper cannot be reached")
    with pytest.raises(ManagerUnavailable):
        await units.stop(MODEL, 1)


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

    monkeypatch.setattr("llm_router.units.systemd.anyio.sleep", no_pause)
    with anyio.fail_after(5), caplog.at_level(logging.WARNING):
        async with SystemdUnits({"m": MODEL}, str(tmp_path / "helper.sock")):
            await enough.wait()
    assert max(pauses) <= 1
    assert len([r for r in caplog.records if "cannot be reached" in r.message]) == 1
