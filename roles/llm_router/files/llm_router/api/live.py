"""The router's events as server-sent events, for a dashboard or an operator's terminal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict

import anyio

from llm_router.api.wire import to_json
from llm_router.events import Event, EventStream, RouterStopping

KEEPALIVE = 15.0
BACKLOG = 1000
"""Events that are kept for a slow reader; past it the oldest are dropped, and that is said."""


async def follow(events: EventStream, keepalive: float = KEEPALIVE) -> AsyncIterator[bytes]:
    """Every event from now on: ``event:`` is its kind, ``data:`` its fields as JSON."""
    waiting: deque[Event] = deque()
    dropped = 0
    some = asyncio.Event()

    def listen(event: Event) -> None:
        nonlocal dropped
        if len(waiting) >= BACKLOG:
            waiting.popleft()
            dropped += 1
        waiting.append(event)
        some.set()

    unsubscribe = events.subscribe(listen)
    try:
        yield b": following\n\n"
        while True:
            some.clear()
            with anyio.move_on_after(keepalive):
                await some.wait()
            if not waiting:
                yield b": still here\n\n"
            if dropped:
                lost, dropped = dropped, 0
                yield b'event: Dropped\ndata: {"events": %d}\n\n' % lost
            while waiting:
                event = waiting.popleft()
                kind = type(event).__name__.encode()
                yield b"event: " + kind + b"\ndata: " + to_json(asdict(event)) + b"\n\n"
                if isinstance(event, RouterStopping):
                    return
    finally:
        unsubscribe()
