"""One proxied request on its way, for whoever serves it and whoever looks on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_router.api.auth import Caller
from llm_router.api.errors import ApiError
from llm_router.api.paths import Operation
from llm_router.api.sse import Measured
from llm_router.api.status import Style
from llm_router.config.schema import Fallback, Model

Pieces = Sequence["bytes | bytearray | memoryview"]
"""Bytes that are sent one after the other and never put together: a copy of a large body would
hold up every stream."""


@dataclass(frozen=True)
class Call:
    """What an engine is asked."""

    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    content: Pieces
    choices: int = 1
    """How many choices the answer has."""


@dataclass
class Exchange:
    """What is known of a request; times are the services' clock, in seconds."""

    number: int
    path: str
    operation: Operation
    caller: Caller
    model: Model
    """The model that answers."""
    call: Callable[[Model], Call]
    """What that model's engine is asked."""
    stream: bool
    style: Style
    began: float
    base: dict[str, Any]
    """id, created and model of the chunks that the router makes itself."""
    wants_usage: bool
    fallback: Fallback | None = None
    """None: it may cause a switch. Else what becomes of it when its model is not loaded."""
    patience: float = 0.0
    """How long a request that may cause no switch waits for others to cause it."""
    queue_seconds: float | None = None
    switch_seconds: float = 0.0
    rate: float | None = None
    measured: Measured | None = None
    """What was seen of its answer so far."""
    sent: float | None = None
    """When its engine was asked."""
    served: bool = False
    """Whether it has its lease."""
    switch: int | None = None
    """The number of the last switch that it waited for."""
    usage_rate: bool = True
    """Whether its answer's usage has the router's own keys."""
    keep_alive: float | None = None
    """How long its model shall stay loaded afterwards, in seconds."""
    interrupt: Callable[[], object] | None = None
    """Cancels what it is doing now; None when it does nothing that could be."""
    verdict: ApiError | None = None
    """Why it was ended by others than its client and its engine."""

    def end(self, verdict: ApiError) -> None:
        """End it, whatever it is waiting for; the client is told why. The first word counts."""
        if self.verdict is None and self.interrupt is not None:
            self.verdict = verdict
            self.interrupt()
