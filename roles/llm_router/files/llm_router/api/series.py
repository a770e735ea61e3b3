"""Ten minutes of figures, one point a second: what the charts draw."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any

from llm_router.api.activity import FirstToken
from llm_router.api.services import Services
from llm_router.background import in_background

EVERY = 1.0
POINTS = 600


@dataclass(frozen=True)
class Point:
    """``time``: seconds since the epoch. ``tokens_per_second``: over all requests, since the point
    before. ``ttft``: the median of the first tokens that came since then, in seconds. The last two:
    by GPU, percent of its memory and of its time."""

    time: float
    tokens_per_second: float
    ttft: float | None
    waiting: int
    answering: int
    gpu_memory: tuple[float, ...] = ()
    gpu_utilization: tuple[int | None, ...] = ()

    def row(self) -> list[Any]:
        """As it is sent: the fields in their order."""
        return [
            round(self.time, 1),
            round(self.tokens_per_second, 1),
            None if self.ttft is None else round(self.ttft, 3),
            self.waiting,
            self.answering,
            list(self.gpu_memory),
            list(self.gpu_utilization),
        ]


class Series:
    """The points, oldest first; ``on_point`` is told of each new one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.on_point: Callable[[], None] | None = None
        self._tokens = 0
        self._sampled = services.clock()

    def sampling(self) -> AbstractAsyncContextManager[None]:
        """A point a second, for as long as the block runs."""
        return in_background("samples", self._run, self._services.events)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            self.points.append(self._sample())
            if self.on_point is not None:
                self.on_point()

    def _sample(self) -> Point:
        services, activity = self._services, self._services.activity
        before, self._sampled = self._sampled, services.clock()
        tokens, answering = activity.tokens, 0
        first: list[float] = []
        running = list(services.in_flight.values())
        for moment in (*map(FirstToken.of, running), *activity.first_tokens):
            if moment is not None and moment.clock > before:
                first.append(moment.ttft)
        activity.first_tokens.clear()
        for exchange in running:
            answering += exchange.served
            if exchange.measured is not None:
                tokens += exchange.measured.tokens
        # an engine's own count at the end may be lower than what was counted on the way
        generated, self._tokens = max(0, tokens - self._tokens), tokens
        gpus = services.gpus.latest
        return Point(
            time.time(),
            generated / max(self._sampled - before, 0.001),
            median(first) if first else None,
            len(running) - answering,
            answering,
            tuple(_percent(gpu["memory_used"], gpu["memory_total"]) for gpu in gpus),
            tuple(gpu["utilization"] for gpu in gpus),
        )


def _percent(part: int, whole: int) -> float:
    """0 where a GPU reports no memory."""
    return round(100 * part / whole, 1) if whole else 0.0
