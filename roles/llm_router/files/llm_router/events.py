"""The router's one event stream: what happens to models, told to whoever listens.

Status lines, metrics and the log read it; nobody asks the switcher how it is doing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger(__name__)

BackgroundTask = Literal[
    "samples",
    "dashboard",
    "gpus",
    "reload",
    "reconcile",
    "load_progress",
    "read_ahead",
    "scheduler",
    "notes",
    "garbage",
    "watchdog",
]
"""What goes on beside requests and switches."""


@dataclass(frozen=True)
class SwitchStarted:
    """A plan begins to run; ``model`` is None for an unload.

    ``reason`` is request, adopt, rollback, idle, operator or removed. ``switch`` is its number,
    which the events of one switch have in common.
    """

    group: str
    model: str | None
    previous: str | None
    reason: str
    switch: int = 0


@dataclass(frozen=True)
class StepStarted:
    """One step of a plan begins; ``step`` is its kind, such as ``Stop``."""

    group: str
    step: str
    model: str


@dataclass(frozen=True)
class StepEnded:
    """One step ended; ``error`` is None when it did what it should. ``unit`` is the model's."""

    group: str
    step: str
    model: str
    seconds: float
    error: str | None = None
    switch: int = 0
    unit: str = ""


@dataclass(frozen=True)
class SwitchEnded:
    """A plan ended. ``error`` is None when ``model`` is loaded now (None: nothing is).

    ``main_pid`` is then its unit's, 0 when that is not known; ``context_length``, in tokens, what
    its engine says, None when it says nothing.
    """

    group: str
    model: str | None
    previous: str | None
    seconds: float
    reason: str
    error: str | None = None
    steps: tuple[StepEnded, ...] = ()
    main_pid: int = 0
    context_length: int | None = None
    switch: int = 0


@dataclass(frozen=True)
class ModelLost:
    """A loaded model's engine is gone without anybody having asked for it."""

    group: str
    model: str
    reason: str


@dataclass(frozen=True)
class MemoryNotReleased:
    """An engine is gone, or sleeps, and ``model``'s GPU memory did not come back in time."""

    group: str
    model: str


@dataclass(frozen=True)
class LoadProgress:
    """``part``, 0 to 1, of the weights of ``model`` are loaded, by its engine's own word."""

    group: str
    model: str
    part: float


@dataclass(frozen=True)
class LoadActivity:
    """What the load of ``model`` does now, for a person, beside its step; empty: nothing that is
    known."""

    group: str
    model: str
    doing: str


@dataclass(frozen=True)
class BackgroundFailed:
    """Work that nobody awaits has failed, which is a fault of the router."""

    task: BackgroundTask
    error: str


@dataclass(frozen=True)
class RouterStopping:
    """The router is about to end: no event comes after this one."""


Event = (
    SwitchStarted
    | StepStarted
    | StepEnded
    | SwitchEnded
    | ModelLost
    | MemoryNotReleased
    | LoadProgress
    | LoadActivity
    | BackgroundFailed
    | RouterStopping
)
Listener = Callable[[Event], None]


@dataclass
class EventStream:
    """Synchronous fan-out in the event loop: a listener takes note and returns, it never waits."""

    _listeners: list[Listener] = field(default_factory=list)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have every event from now on; the returned function ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, event: Event) -> None:
        """Tell all. A listener that fails is logged; it must not stop a switch."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on %s", type(event).__name__)
