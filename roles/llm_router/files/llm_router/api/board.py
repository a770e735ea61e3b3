"""The live picture of the router: whole once, and then what changed, to all who look on.

It is looked at every `TICK` seconds while anybody looks on, and encoded once for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import anyio

from llm_router import __version__
from llm_router.api.activity import entry_of
from llm_router.api.exchange import Exchange
from llm_router.api.overview import group_status, model_mark, model_status
from llm_router.api.series import Series
from llm_router.api.services import Services
from llm_router.api.wire import to_json
from llm_router.background import in_background
from llm_router.events import Event, RouterStopping

TICK = 0.2
KEEPALIVE = 10.0
BACKLOG = 50
"""Changes that are kept for a slow reader; past it, it gets the whole picture anew."""

Entry = dict[str, Any]


@dataclass(eq=False)
class _Viewer:
    waiting: deque[bytes] = field(default_factory=deque)
    some: asyncio.Event = field(default_factory=asyncio.Event)
    behind: bool = True
    """Whether the whole picture is what it needs next."""


@dataclass
class _Seen:
    """What the viewers were last told, by which to tell what has changed."""

    marks: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    models: dict[str, Entry] = field(default_factory=dict)
    held: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    groups: dict[str, Entry] = field(default_factory=dict)
    requests: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    version: int = -1
    ended: int = 0
    gpus: list[Entry] = field(default_factory=list)


class Board:
    """`follow` is one viewer's stream."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._series = Series(services)
        self._viewers: set[_Viewer] = set()
        self._seen = _Seen()
        self._news: deque[list[Any]] = deque()
        """Points of the series that have yet to be sent."""
        self._watched = asyncio.Event()
        self._stopping = False

    @property
    def points(self) -> list[list[Any]]:
        """The series, oldest first."""
        return [point.row() for point in self._series.points]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Collect the series, and tell viewers, for as long as the block runs."""
        unsubscribe = self._services.events.subscribe(self._listen)
        self._series.on_point = self._new_point
        try:
            async with (
                in_background("dashboard", self._run, self._services.events),
                self._series.sampling(),
            ):
                yield
        finally:
            unsubscribe()

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: ``snapshot``, then ``delta`` whenever something changed."""
        viewer = _Viewer()
        self._viewers.add(viewer)
        self._watched.set()
        try:
            while True:
                viewer.some.clear()
                if viewer.behind:
                    # so that all others know as much as this one is told now
                    self._tell_changes()
                    viewer.behind = False
                    viewer.waiting.clear()
                    yield _event("snapshot", self._snapshot())
                while viewer.waiting:
                    yield viewer.waiting.popleft()
                if self._stopping:
                    yield _event("stopping", {})
                    return
                with anyio.move_on_after(KEEPALIVE):
                    await viewer.some.wait()
                    continue
                yield b": still here\n\n"
        finally:
            self._viewers.discard(viewer)

    def _listen(self, event: Event) -> None:
        if isinstance(event, RouterStopping):
            self._stopping = True
            for viewer in self._viewers:
                viewer.some.set()

    def _new_point(self) -> None:
        if self._viewers:
            self._news.append(self._series.points[-1].row())

    async def _run(self) -> None:
        while True:
            if not self._viewers:
                self._watched.clear()
                await self._watched.wait()
            await asyncio.sleep(TICK)
            self._tell_changes()

    def _tell_changes(self) -> None:
        change = self._look()
        if not change:
            return
        data = _event("delta", change)
        for viewer in self._viewers:
            if viewer.behind:
                continue
            if len(viewer.waiting) >= BACKLOG:
                viewer.behind = True
            else:
                viewer.waiting.append(data)
            viewer.some.set()

    def _snapshot(self) -> Entry:
        """What the viewers know by now, whole."""
        services, seen = self._services, self._seen
        clock, now = services.clock(), time.time()
        open_now = [services.in_flight.get(number) for number in seen.requests]
        return {
            "version": __version__,
            "now": round(now, 3),
            "models": seen.models,
            "groups": seen.groups,
            "switches": services.progress.switches(),
            "requests": [entry_of(one, clock, now) for one in open_now if one is not None],
            "recent": list(services.activity.recent),
            "series": self.points,
            "gpus": seen.gpus,
        }

    def _look(self) -> Entry:
        """What is different from what was last seen, which is what is seen now from here on."""
        services, seen = self._services, self._seen
        change: Entry = {}
        models = self._changed_models()
        if models:
            change["models"] = models
        core = services.scheduler.core
        held = {name: (g.current, g.pinned, g.pinned_until) for name, g in core.groups.items()}
        if held != seen.held:
            seen.held = held
            seen.groups = change["groups"] = {n: group_status(services, n) for n in core.groups}
        if services.progress.version != seen.version:
            seen.version = services.progress.version
            change["switches"] = services.progress.switches()
        change |= self._changed_requests()
        ended = services.activity.count - seen.ended
        if ended:
            seen.ended = services.activity.count
            recent = services.activity.recent
            change["recent"] = list(islice(recent, max(0, len(recent) - ended), None))
        if services.gpus.latest is not seen.gpus:
            seen.gpus = change["gpus"] = services.gpus.latest
        if self._news:
            change["points"] = list(self._news)
            self._news.clear()
        return change

    def _changed_models(self) -> dict[str, Entry | None]:
        services, seen = self._services, self._seen
        changed: dict[str, Entry | None] = {}
        for name in services.models:
            mark = model_mark(services, name)
            if seen.marks.get(name) != mark:
                seen.marks[name] = mark
                changed[name] = seen.models[name] = model_status(services, name)
        if len(seen.models) > len(services.models):
            for name in [name for name in seen.models if name not in services.models]:
                del seen.models[name], seen.marks[name]
                changed[name] = None
        return changed

    def _changed_requests(self) -> Entry:
        """``began``: whole entries; ``gone``: ids; ``progress``: id, model, whether it is answered,
        tokens, tokens per second."""
        in_flight, seen = self._services.in_flight, self._seen.requests
        began: list[Entry] = []
        progress: list[tuple[Any, ...]] = []
        for number, exchange in in_flight.items():
            mark = _mark(exchange)
            before = seen.get(number)
            if before is None:
                began.append(entry_of(exchange, self._services.clock(), time.time()))
            elif before != mark:
                progress.append((number, *mark))
            else:
                continue
            seen[number] = mark
        gone: list[int] = []
        if len(seen) > len(in_flight):
            gone = [number for number in seen if number not in in_flight]
            for number in gone:
                del seen[number]
        parts = {"began": began, "progress": progress, "gone": gone}
        return {name: part for name, part in parts.items() if part}


def _mark(exchange: Exchange) -> tuple[Any, ...]:
    measured = exchange.measured
    if measured is None:
        return exchange.model.name, int(exchange.served), None, None
    rate = measured.rate
    return (
        exchange.model.name,
        int(exchange.served),
        measured.tokens,
        None if rate is None else round(rate, 1),
    )


def _event(kind: str, value: Entry) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + to_json(value) + b"\n\n"
