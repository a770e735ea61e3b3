"""One proxied request on its way, for whoever serves it and whoever looks on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio

from llm_router.api.auth import Caller
from llm_router.api.errors import ApiError
from llm_router.api.status import Style
from llm_router.config.schema import Fallback, Model


@dataclass
class Exchange:
    """What is known of a request; times are the services' clock, in seconds."""

    number: int
    path: str
    caller: Caller
    model: Model
    body: dict[str, Any]
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
    served: bool = False
    """Whether it has its lease."""
    keep_alive: float | None = None
    """How long its model shall stay loaded afterwards, in seconds."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    verdict: ApiError | None = None
    """Why it was ended by others than its client and its engine."""

    def end(self, verdict: ApiError) -> None:
        """End it, whatever it is waiting for; the client is told why."""
        self.verdict = verdict
        self.scope.cancel()
