"""Engines as child processes: no root, no systemd; for a laptop, a container, a test.

A child runs in a session of its own with its output in a log file, and its pid with its start time
is kept on disk. So a router that was killed finds its engines again when it starts, and one that
stops in order takes them with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import anyio
from typing_extensions import Self

from llm_router.config.schema import Config, Model
from llm_router.engine_keys import known_keys
from llm_router.json_codec import json_text
from llm_router.logs.masking import masked
from llm_router.prewarm import in_thread
from llm_router.units.base import UnitError, Units, UnitState

log = logging.getLogger(__name__)

Argv = Callable[[Model], list[str]]
LOG_TAIL_BYTES = 64 * 1024


@dataclass
class _Child:
    pid: int
    started: str
    pidfd: int
    gone: asyncio.Event
    popen: subprocess.Popen[bytes] | None = None
    """None for a child that an earlier router started: init reaps that one."""


class ChildUnits(Units):
    """One child process per unit. ``argv`` says how a model's engine is run."""

    def __init__(self, config: Config, models: dict[str, Model], argv: Argv) -> None:
        super().__init__()
        self._config = config
        self._models: Mapping[str, Model] = models
        self._argv = argv
        self._dir = Path(config.state_dir) / "children"
        self._stop_timeout = config.switch.stop_timeout
        self._children: dict[str, _Child] = {}
        self._ended: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnitError(f"{self._dir} cannot be made: {error.strerror}") from error
        for unit in {model.unit for model in self._models.values()}:
            self._find_again(unit)
        return self

    async def __aexit__(self, *exc: object) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for unit in list(self._children):
                    tasks.start_soon(self._end, unit, self._stop_timeout)

    def configure(self, models: Mapping[str, Model]) -> None:
        """A child is watched by its process; what models there are matters when it is started."""
        self._models = dict(models)

    async def activate(self, model: Model) -> bool:
        """Nothing to write: what a child serves is in its arguments."""
        return False

    async def prewarm(self, model: Model) -> int:
        """Read the weights here."""
        return await in_thread(model.model_path)

    async def start(self, model: Model) -> None:
        """Start the model's engine; a unit that runs already is left alone."""
        unit = model.unit
        if unit in self._children:
            return
        argv = self._argv(model)
        log_path = self._path(unit, "log")

        def spawn() -> subprocess.Popen[bytes]:
            with log_path.open("wb") as output:
                return subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        try:
            popen = await anyio.to_thread.run_sync(spawn)
        except OSError as error:
            raise UnitError(f"{argv[0]} cannot be started: {error.strerror}") from error
        started = _start_time(popen.pid) or ""
        self._watch(
            unit, _Child(popen.pid, started, os.pidfd_open(popen.pid), asyncio.Event(), popen)
        )
        record = {"pid": popen.pid, "started": started}
        self._path(unit, "json").write_text(json_text(record), encoding="utf-8")

    async def stop(self, model: Model, grace: float) -> None:
        """SIGTERM to the child's process group, SIGKILL past ``grace`` seconds."""
        await self._end(model.unit, grace)

    async def state(self, model: Model) -> UnitState:
        """Running while its process is there; failed when it ended by itself with an error."""
        child = self._children.get(model.unit)
        if child is not None:
            return UnitState("active", child.pid)
        result = self._ended.get(model.unit, "")
        return UnitState("failed" if result else "inactive", 0, result)

    async def log_tail(
        self, model: Model, lines: int = 20, since: float | None = None
    ) -> list[str]:
        """The end of the child's log file, without keys."""
        path = self._path(model.unit, "log")

        def read() -> list[str]:
            try:
                with path.open("rb") as file:
                    begin = max(0, path.stat().st_size - LOG_TAIL_BYTES)
                    file.seek(begin)
                    text = file.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
            except FileNotFoundError:
                return []
            # the first line may be half of one, and begin within a key
            found = text.splitlines()[1 if begin else 0 :][-lines:]
            return masked(found, known_keys(self._models, self._config))

        return await anyio.to_thread.run_sync(read)

    async def processes_among(self, model: Model, pids: Collection[int]) -> frozenset[int]:
        """By the session, which each child begins."""
        child = self._children.get(model.unit)
        return frozenset(pid for pid in pids if child is not None and _session(pid) == child.pid)

    async def account(self, model: Model) -> int | None:
        """The router's own."""
        return os.geteuid()

    async def problem(self) -> str | None:
        """Child processes need nothing that could be missing."""
        return None

    def _path(self, unit: str, suffix: str) -> Path:
        # quoted, not replaced: no two units may share a file, a/b and a_b neither
        kind, name = ("child", unit[6:]) if unit.startswith("child:") else ("unit", unit)
        return self._dir / f"{kind}_{quote(name, safe='')}.{suffix}"

    def _watch(self, unit: str, child: _Child) -> None:
        self._children[unit] = child
        self._ended.pop(unit, None)
        asyncio.get_running_loop().add_reader(child.pidfd, self._ended_by_itself, unit)
        self._changed(unit, UnitState("active", child.pid))

    def _ended_by_itself(self, unit: str) -> None:
        child = self._children.pop(unit)
        asyncio.get_running_loop().remove_reader(child.pidfd)
        os.close(child.pidfd)
        # its descendants hold the device as it did
        _signal_group(child.pid, signal.SIGKILL)
        code = child.popen.wait() if child.popen else 0
        self._path(unit, "json").unlink(missing_ok=True)
        if code:
            self._ended[unit] = f"signal {-code}" if code < 0 else f"exit code {code}"
        child.gone.set()
        self._changed(
            unit, UnitState("failed" if code else "inactive", 0, self._ended.get(unit, ""))
        )

    async def _end(self, unit: str, grace: float) -> None:
        child = self._children.get(unit)
        if child is None:
            self._ended.pop(unit, None)
            return
        _signal_group(child.pid, signal.SIGTERM)
        with anyio.move_on_after(grace):
            await child.gone.wait()
        if not child.gone.is_set():
            log.warning("%s did not end within %g s: killing it", unit, grace)
            _signal_group(child.pid, signal.SIGKILL)
            await child.gone.wait()
        self._ended.pop(unit, None)

    def _find_again(self, unit: str) -> None:
        """Take over the child that an earlier router left running, if it is that very process."""
        path = self._path(unit, "json")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            pid, started = int(record["pid"]), str(record["started"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if _start_time(pid) != started:
            path.unlink(missing_ok=True)
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        log.info("%s still runs as pid %d", unit, pid)
        self._watch(unit, _Child(pid, started, pidfd, asyncio.Event()))


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """When the process was started, in clock ticks since boot: with the pid it names one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # a zombie is gone for us: whoever was its parent has yet to notice
    return None if fields[0] == "Z" else fields[19]
