"""What one connection to systemd remembers of the jobs that come to an end on the host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from dbus_fast import MessageType

from llm_router.units import dbus
from llm_router.units.dbus import BusUnavailable, ManagerError, SystemdManager
from llm_router.units.systemd import SystemdUnits

pytestmark = pytest.mark.anyio

OURS = "/org/freedesktop/systemd1/job/7"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Bus:
    """The system bus with a systemd on it that queues one job, `OURS`."""

    def __init__(self, **_: object) -> None:
        self.connected = True
        self.calls: list[str] = []
        self.handler: Callable[[Any], None] = lambda _: None
        self.before_the_reply: Callable[[], None] = lambda: None
        self._lost = asyncio.Event()

    async def connect(self) -> Bus:
        self.connected = True
        return self

    def add_message_handler(self, handler: Callable[[Any], None]) -> None:
        self.handler = handler

    async def call(self, message: Any) -> Any:
        self.calls.append(" ".join([message.member, *map(str, message.body)]))
        body = {"GetNameOwner": [":1.1"], "StartUnit": [OURS]}.get(message.member, [])
        if message.member == "StartUnit":
            self.before_the_reply()
        return SimpleNamespace(message_type=MessageType.METHOD_RETURN, body=body)

    async def wait_for_disconnect(self) -> None:
        await self._lost.wait()

    def disconnect(self) -> None:
        self.connected = False
        self._lost.set()

    def job_removed(self, job: str, result: str = "done") -> None:
        self.handler(
            SimpleNamespace(
                message_type=MessageType.SIGNAL,
                sender=":1.1",
                member="JobRemoved",
                body=[7, job, "some.service", result],
            )
        )

    def others(self) -> None:
        for number in range(100, 200):
            self.job_removed(f"/org/freedesktop/systemd1/job/{number}")


@pytest.fixture
async def bus(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    bus = Bus()
    monkeypatch.setattr(dbus, "MessageBus", lambda **_: bus)
    with anyio.fail_after(5):
        yield bus


def remembered(manager: SystemdManager) -> int:
    """How much the connection holds, whatever it calls it."""
    return sum(len(held) for held in vars(manager).values() if isinstance(held, dict))


async def test_jobs_of_others_are_not_remembered(bus: Bus) -> None:
    async with SystemdManager() as manager:
        bus.others()
        assert remembered(manager) == 0
        job = await manager.queue_start("some.service")
        bus.others()
        assert remembered(manager) == 1
        bus.job_removed(OURS)
        assert await manager.job_result(job) == "done"


async def test_a_job_that_ends_before_it_is_named_has_its_result(bus: Bus) -> None:
    def end() -> None:
        bus.others()
        bus.job_removed(OURS, "failed")

    bus.before_the_reply = end
    async with SystemdManager() as manager:
        job = await manager.queue_start("some.service")
        assert await manager.job_result(job) == "failed"
        assert remembered(manager) == 1


async def test_who_only_watches_does_not_ask_to_hear_of_jobs(bus: Bus) -> None:
    async with SystemdUnits({}, "/nowhere"):
        assert not [call for call in bus.calls if "JobRemoved" in call]
    async with SystemdManager() as manager:
        await manager.queue_start("some.service")
    match, start = bus.calls[-2:]
    assert match.startswith("AddMatch")
    assert "JobRemoved" in match
    assert start.startswith("StartUnit")


async def test_a_lost_connection_ends_the_wait_for_a_job(bus: Bus) -> None:
    async with SystemdManager() as manager:
        job = await manager.queue_start("some.service")
        bus.disconnect()
        with pytest.raises(BusUnavailable, match="is lost"):
            await manager.job_result(job)


async def test_a_job_that_is_named_over_a_lost_connection_is_not_waited_for(bus: Bus) -> None:
    async with SystemdManager() as manager:
        bus.before_the_reply = manager._lose
        with pytest.raises(BusUnavailable, match="is lost"):
            await manager.queue_start("some.service")


@pytest.mark.parametrize(
    ("name", "lost"),
    [("org.freedesktop.DBus.Error.NoReply", True), ("org.freedesktop.systemd1.NoSuchUnit", False)],
)
async def test_a_systemd_that_restarts_in_a_call_is_unavailable(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, name: str, lost: bool
) -> None:
    """With ``daemon-reexec`` in the middle of a call, the bus itself answers NoReply."""
    async with SystemdManager() as manager:

        async def refuse(_: object) -> object:
            return SimpleNamespace(
                message_type=MessageType.ERROR, error_name=name, body=["went away"]
            )

        monkeypatch.setattr(bus, "call", refuse)
        with pytest.raises(BusUnavailable if lost else ManagerError, match="went away"):
            await manager.queue_start("some.service")
