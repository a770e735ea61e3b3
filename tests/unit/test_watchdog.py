"""systemd's watchdog is fed by what serves: the event loop, and the helper's accept loop."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from llm_router.helper import server
from llm_router.helper.catalog import Catalog
from llm_router.helper.server import HelperServer
from llm_router.server import watchdog

pytestmark = pytest.mark.anyio
LIMIT = 0.2
"""Seconds; a notification is due every quarter of it."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        listener.setblocking(False)

    def received(self) -> int:
        """Notifications since the last call; everything else is an error."""
        count = 0
        while True:
            try:
                message = self._listener.recv(100)
            except BlockingIOError:
                return count
            assert message == b"WATCHDOG=1"
            count += 1

    async def first(self) -> bytes:
        """The next message, whatever it is."""
        with anyio.fail_after(10):
            await anyio.wait_readable(self._listener)
        return self._listener.recv(100)

    async def next(self) -> None:
        """Return when the next notification is there."""
        self.received()
        with anyio.fail_after(10):
            await anyio.wait_readable(self._listener)


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(round(LIMIT * 1_000_000)))
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield Systemd(listener)


async def test_a_loop_that_turns_is_reported(systemd: Systemd) -> None:
    task = asyncio.create_task(watchdog.keep_alive())
    for _ in range(3):
        await systemd.next()
    task.cancel()


async def test_a_loop_that_is_blocked_is_not_reported(systemd: Systemd) -> None:
    task = asyncio.create_task(watchdog.keep_alive())
    await systemd.next()
    systemd.received()
    time.sleep(2 * LIMIT)
    assert systemd.received() == 0
    await systemd.next()
    task.cancel()


async def test_a_process_that_is_not_able_is_not_reported(systemd: Systemd) -> None:
    answers = [False, True]

    async def able() -> bool:
        if not answers:
            raise RuntimeError("no answer")
        assert systemd.received() == 0
        return answers.pop(0)

    task = asyncio.create_task(watchdog.keep_alive(able))
    await systemd.next()
    assert systemd.received() == 1
    await anyio.sleep(LIMIT)
    assert systemd.received() == 0
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize("other", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_PID": "1"}])
async def test_a_process_that_systemd_does_not_watch_sends_nothing(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    await watchdog.keep_alive()
    assert systemd.received() == 0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "helper.sock"))
        listener.listen()
        yield listener


def helper(tmp_path: Path, kind: type[HelperServer] = HelperServer) -> HelperServer:
    return kind(Catalog(tmp_path / "config.yml", owner=os.geteuid()), peers=frozenset())


async def test_a_helper_that_accepts_is_reported_and_still_ends_when_idle(
    systemd: Systemd, listener: socket.socket, tmp_path: Path
) -> None:
    with anyio.fail_after(10):
        await helper(tmp_path).serve(listener, idle=3 * LIMIT)
    assert systemd.received() >= 2


async def test_a_helper_is_ready_before_its_watchdog_counts(
    systemd: Systemd, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy host the program takes seconds to load."""
    monkeypatch.setattr(server, "listening_socket", listener.dup)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve_helper, tmp_path / "config.yml")
        assert await systemd.first() == b"READY=1"
        await systemd.next()
        tasks.cancel_scope.cancel()


async def test_a_helper_that_accepts_nothing_is_not_reported(
    systemd: Systemd, listener: socket.socket, tmp_path: Path
) -> None:
    class Stuck(HelperServer):
        async def _accept(self, listener: socket.socket, idle: float) -> socket.socket | None:
            await anyio.sleep_forever()
            raise AssertionError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(helper(tmp_path, Stuck).serve, listener)
        await anyio.sleep(2 * LIMIT)
        systemd.received()
        await anyio.sleep(LIMIT)
        assert systemd.received() == 0
        tasks.cancel_scope.cancel()


async def test_a_helper_without_a_thread_for_a_request_is_not_reported(
    systemd: Systemd, listener: socket.socket, tmp_path: Path
) -> None:
    threads = anyio.to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(helper(tmp_path).serve, listener)
        await systemd.next()
        total, threads.total_tokens = threads.total_tokens, 1
        try:
            async with threads:
                await anyio.sleep(LIMIT / 2)
                systemd.received()
                await anyio.sleep(2 * LIMIT)
                assert systemd.received() == 0
            await systemd.next()
        finally:
            threads.total_tokens = total
        tasks.cancel_scope.cancel()
