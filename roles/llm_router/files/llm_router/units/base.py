"""The interface that the switcher knows of whatever runs engines."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
from typing_extensions import Self

from llm_router.config.schema import Model

Active = Literal["inactive", "activating", "active", "deactivating", "failed"]


class UnitError(Exception):
    """A unit could not be brought where it was wanted; the message is one sentence for a person."""


class ManagerUnavailable(UnitError):
    """No unit can be managed now: the bus, systemd or the helper is away. No model's fault."""


@dataclass(frozen=True)
class UnitState:
    """What the service manager says of a unit now."""

    active: Active
    main_pid: int = 0
    result: str = ""
    """Why it ended, in systemd's words (``exit-code``, ``signal``, …); empty while all is well."""
    exit_status: int = field(default=0, compare=False)
    """Exit code, or number of the signal, of the main process that ended last."""
    exits: int = field(default=0, compare=False)
    """How often its main process ended and was, or is about to be, restarted by the service
    manager itself, since a start that the router asked for."""
    since: float = field(default=0.0, compare=False)
    """When it became active, in seconds of any one clock; 0 where nobody can say."""

    @property
    def end(self) -> str:
        """How it ended, for a person: ``exit-code, status 3``; empty where nothing is known."""
        if not self.result or not self.exit_status:
            return self.result
        return f"{self.result}, status {self.exit_status}"

    @property
    def running(self) -> bool:
        """Whether it may hold the device: anything but at rest."""
        return self.active in ("activating", "active", "deactivating")


Listener = Callable[[str, UnitState], None]


class Units(ABC):
    """Starts, stops, watches. Every method takes a model and acts on the unit that runs it.

    ``start`` and ``stop`` return when the service manager has done the job; whether the engine can
    generate is not theirs to say. All raise `UnitError`; none blocks the event loop; each is safe
    to repeat.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._on_connected: list[Callable[[], None]] = []

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect and begin to watch."""

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None:
        """Stop watching."""

    @abstractmethod
    async def activate(self, model: Model) -> bool:
        """Make what the unit reads on disk say "serve this model"; true if something changed."""

    @abstractmethod
    async def check(self, model: Model) -> str:
        """Raise what `activate` would raise, and write nothing.

        Why an engine that stays and loads the model over its API must be restarted instead, since
        the model would not get its settings; empty where it need not."""

    @abstractmethod
    async def prewarm(self, model: Model) -> int:
        """Read the model's weights into the page cache, until cancelled; the bytes read."""

    @abstractmethod
    async def start(self, model: Model) -> None:
        """Start the unit and wait until the service manager calls it started."""

    @abstractmethod
    async def stop(self, model: Model, grace: float) -> None:
        """Stop the unit and wait until none of its processes is left, by force past
        ``grace`` seconds."""

    @abstractmethod
    async def state(self, model: Model) -> UnitState:
        """What is true now, asked anew."""

    @abstractmethod
    async def log_tail(
        self, model: Model, lines: int = 20, since: float | None = None
    ) -> list[str]:
        """The unit's last log lines, oldest first; an empty list when there are none. ``since``:
        none that are older, in seconds since 1970; the log of a child begins with its start."""

    @abstractmethod
    async def processes_among(self, model: Model, pids: Collection[int]) -> frozenset[int]:
        """Those of ``pids`` that are the unit's."""

    async def programs(self, model: Model) -> frozenset[str]:
        """The names of the programs that run in the unit now."""
        return frozenset()

    async def release(self, model: Model) -> str:
        """Which release of its engine the unit starts: the directory that the link ``current`` in
        its command line points to. Empty where the command line has no such link."""
        return ""

    async def account(self, model: Model) -> int | None:
        """The user id that the unit's processes have; None where these units cannot tell."""
        return None

    async def describe_process(self, pid: int) -> str:
        """A process's name and where it belongs, for a person; never fails."""
        return await anyio.to_thread.run_sync(_name_of, pid) or "unknown"

    @abstractmethod
    async def problem(self) -> str | None:
        """One sentence when units cannot be managed at all (the helper is gone, say), else None."""

    @abstractmethod
    def configure(self, models: Mapping[str, Model]) -> None:
        """Go by other models from now on; what runs goes on running, and is watched still."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(unit, state)`` in the event loop whenever a watched unit changes.

        The returned function ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_connected(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener()`` in the event loop when the service manager can be reached again:
        changes may have been missed. The returned function ends it.
        """
        self._on_connected.append(listener)
        return lambda: self._on_connected.remove(listener)

    def _connected(self) -> None:
        for listener in self._on_connected:
            listener()

    def _changed(self, unit: str, state: UnitState) -> None:
        for listener in self._listeners:
            listener(unit, state)


_CURRENT = re.compile(r"(?<![^\s\"'=(])/[A-Za-z0-9/._-]*/current(?![A-Za-z0-9._-])")


def release_in(command_line: str) -> str:
    """Where the first link ``current`` of a command line points to. It blocks on the disk."""
    link = _CURRENT.search(command_line)
    return os.path.realpath(link[0]) if link is not None and Path(link[0]).is_symlink() else ""


def _name_of(pid: int) -> str:
    """Empty where it is gone, or is not shown: other people's are hidden from a hardened unit."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
