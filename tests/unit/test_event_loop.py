"""What the router's event loop takes on in one turn, and when it looks for garbage."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import selectors
import socket
from collections.abc import Callable, Iterator

import pytest

from llm_router import garbage
from llm_router.event_loop import APART, CROWD, FRESH, MOST, SOON, FewAtOnce, new


@contextlib.contextmanager
def sockets(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    pairs = [socket.socketpair() for _ in range(count)]
    try:
        yield pairs
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


@pytest.fixture
def every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks each time that it is asked."""
    monkeypatch.setattr("llm_router.event_loop.FRESH", 0.0)


@pytest.mark.usefixtures("every_look")
def test_few_are_handed_out_at_once_and_all_in_turn() -> None:
    many = 3 * MOST
    with sockets(many) as pairs, FewAtOnce() as selector:
        for here, there in pairs:
            selector.register(here, selectors.EVENT_READ, data=there)
            there.send(b"x")
        seen: set[int] = set()
        for _ in range(3):  # nobody reads: what was handed out goes behind the others
            ready = selector.select(0)
            assert len(ready) == MOST
            assert all(events == selectors.EVENT_READ for _, events in ready)
            seen |= {key.fd for key, _ in ready}
        assert len(seen) == many


@pytest.mark.usefixtures("every_look")
@pytest.mark.parametrize("many", [1, 2 * MOST])
def test_it_says_what_the_standard_selector_says(many: int) -> None:
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    with sockets(many) as pairs, FewAtOnce() as ours, selectors.EpollSelector() as theirs:
        for here, _ in pairs:
            for selector in (ours, theirs):
                selector.register(here, selectors.EVENT_READ)
        assert ours.select(0) == theirs.select(0) == []
        assert ours.select(0.0005) == []
        here, there = pairs[0]
        changes: list[Callable[[], object]] = [lambda: there.send(b"x"), there.close]
        for change in changes:
            change()
            assert ours.select(None) == theirs.select(None)
        for selector in (ours, theirs):
            selector.modify(here, both)
        assert ours.select(0) == theirs.select(0)
        for selector in (ours, theirs):
            selector.unregister(here)
        assert ours.select(0) == theirs.select(0) == []


def test_a_turn_ends_though_more_is_ready() -> None:
    many = 5 * MOST
    turns: list[int] = []

    async def crowd() -> None:
        loop = asyncio.get_running_loop()
        left = many
        for here, there in pairs:
            there.send(b"x")

            def read(here: socket.socket = here) -> None:
                nonlocal left
                here.recv(1)
                left -= 1

            loop.add_reader(here, read)
        while left:
            turns.append(left)
            await asyncio.sleep(0)
        for here, _ in pairs:
            loop.remove_reader(here)

    with sockets(many) as pairs, asyncio.Runner(loop_factory=new) as runner:
        runner.run(crowd())
    assert len(turns) >= many / MOST


def test_with_work_to_do_it_does_not_look_twice_in_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("llm_router.event_loop.time.monotonic", lambda: now)
    with sockets(1) as [(here, there)], FewAtOnce() as selector:
        selector.register(here, selectors.EVENT_READ)
        assert selector.select(0) == []
        there.send(b"x")
        assert selector.select(0) == [], "it has just looked"
        assert selector.select(None), "without work it looks at once"
        now += FRESH / 2
        assert selector.select(0) == []
        now += FRESH
        assert selector.select(0), "however much work there is"


@pytest.mark.usefixtures("every_look")
def test_after_a_busy_turn_it_lets_news_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    slept: list[float] = []
    monkeypatch.setattr("llm_router.event_loop.time.monotonic", lambda: now)
    monkeypatch.setattr("llm_router.event_loop.time.sleep", slept.append)

    def looks(timeout: float | None) -> list[float]:
        slept.clear()
        assert selector.select(timeout)
        return slept

    with sockets(CROWD) as pairs, FewAtOnce() as selector:
        for here, there in pairs:
            selector.register(here, selectors.EVENT_READ)
            there.send(b"x")
        assert looks(None) == [], "the first look is at once"
        assert looks(0) == [], "with work to do it does not wait"
        assert looks(None) == [pytest.approx(APART)]
        assert looks(APART / 4) == [pytest.approx(APART / 4)], "no longer than was asked for"
        now += APART
        assert looks(None) == [], "the time has passed with work"
        pairs[0][0].recv(1)
        looks(None)
        assert looks(None) == [], "few are told at once"


@pytest.mark.usefixtures("every_look")
def test_crowds_of_others_do_not_let_news_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream has a token now and then, so that nothing of one would go on together."""
    now = 100.0
    slept: list[float] = []
    monkeypatch.setattr("llm_router.event_loop.time.monotonic", lambda: now)
    monkeypatch.setattr("llm_router.event_loop.time.sleep", slept.append)
    crowds = 10
    with sockets(crowds * CROWD) as pairs, FewAtOnce() as selector:
        for here, _ in pairs:
            selector.register(here, selectors.EVENT_READ)
        crowd = pairs[:CROWD]
        for turn in range(4 * crowds):
            crowd = pairs[turn % crowds * CROWD :][:CROWD]
            for _, there in crowd:
                there.send(b"x")
            assert len(selector.select(None)) == CROWD
            for here, _ in crowd:
                here.recv(1)
            now += SOON / (crowds - 1)
        assert slept == []
        now += SOON
        for _ in range(2):  # but one that is there again at once does
            for _, there in crowd:
                there.send(b"x")
            selector.select(None)
        selector.select(None)
        assert slept == [pytest.approx(APART)]


def test_garbage_is_collected_in_quiet_moments_and_at_last_in_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "AT_THE_LATEST", 0.1)
    before = gc.get_threshold()
    full: list[float] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            full.append(asyncio.get_running_loop().time())

    async def run() -> None:
        quiet = False
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(garbage.collect_when_quiet(lambda: quiet))
        await asyncio.sleep(0.05)
        assert gc.get_threshold()[2] > before[2]
        assert len(full) == 1, "only the one at the start while it is busy"
        quiet = True
        while len(full) < 3:
            await asyncio.sleep(0.001)
        quiet = False
        full.clear()
        began = loop.time()
        while not full:
            await asyncio.sleep(0.01)
        assert full[0] - began > 0.05, "the busy router is made to wait for it, but not for ever"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    gc.callbacks.append(note)
    try:
        asyncio.run(run())
    finally:
        gc.callbacks.remove(note)
    assert gc.get_threshold() == before
