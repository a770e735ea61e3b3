"""Engines as child processes: no root, no systemd; for a laptop, a container, a test.

A child runs in a session of its own with its output in a log file, and its pid with its start time
is kept on disk. So a router that was killed finds its engines again when it starts, and one that
stops in order takes them with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
from typing_extensions import Self

from llm_router.config.schema import Config, Model
from llm_router.engine_files import EngineFileError, process_environment
from llm_router.engine_keys import known_keys
from llm_router.logs.masking import CONTEXT, last_masked
from llm_router.model_gpus import gpus_for, see_that_no_other_group_has
from llm_router.prewarm import in_thread
from llm_router.units.base import ManagerUnavailable, UnitError, Units, UnitState, release_in
from llm_router.units.child_records import MARK, ChildRecords, Found, programs_of

log = logging.getLogger(__name__)

Argv = Callable[[Model], list[str]]
LOG_TAIL_BYTES = 64 * 1024
LONGEST_LOG = 16 * 1024 * 1024
"""Bytes of a child's log; then its end becomes the previous log, and it begins again."""
KEPT_OF_LOG = 4 * 1024 * 1024
"""Bytes that the previous log has."""
LOG_INTERVAL = 1.0
"""Seconds between two looks at the logs' sizes: what a child writes meanwhile comes on top."""


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
        self._records = ChildRecords(self._dir)
        self._stop_timeout = config.switch.stop_timeout
        self._children: dict[str, _Child] = {}
        self._ended: dict[str, str] = {}
        self._logs: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnitError(f"{self._dir} cannot be made: {error.strerror}") from error
        for found in self._records.found():
            self._find_again(found)
        # nobody would ask for one that no model names, and it holds a device
        configured = {model.unit for model in self._models.values()}
        await self._end_all([unit for unit in self._children if unit not in configured])
        self._logs = asyncio.create_task(self._bound_logs())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._logs is not None:
            self._logs.cancel()
        await self._end_all(list(self._children))

    async def _end_all(self, units: Collection[str]) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for unit in units:
                    log.info("stopping %s", unit)
                    tasks.start_soon(self._end, unit, self._stop_timeout)

    def configure(self, models: Mapping[str, Model]) -> None:
        """A child is watched by its process; what models there are matters when it is started."""
        self._models = dict(models)

    async def activate(self, model: Model) -> bool:
        """Nothing to write: what a child serves is in its arguments and its environment."""
        await self.check(model)
        return False

    async def check(self, model: Model) -> str:
        """Raise for a GPU that is not there, or that another group uses. No file can be in the
        way."""
        await anyio.to_thread.run_sync(self._environment_of, model)
        return ""

    def _environment_of(self, model: Model) -> dict[str, str]:
        """The variables that the model's process gets beside the router's own. Reads files."""
        try:
            host = gpus_for({**self._models, model.name: model})
            see_that_no_other_group_has(model, self._models, host)
            return process_environment(model.name, model.model_dump(exclude_none=True), host)
        except EngineFileError as error:
            raise UnitError(str(error)) from error

    async def prewarm(self, model: Model) -> int:
        """Read the weights here."""
        return await in_thread(model.model_path)

    async def start(self, model: Model) -> None:
        """Start the model's engine; a unit that runs already is left alone."""
        unit = model.unit
        if unit in self._children:
            return
        argv = self._argv(model)
        variables = await anyio.to_thread.run_sync(self._environment_of, model)
        log_path = self._records.path(unit, "log")
        try:
            token = self._records.about_to_start(unit)
            log_path.open("wb").close()
        except OSError as error:
            self._records.forget(unit)
            raise ManagerUnavailable(
                f"{argv[0]} is not started: {error.filename or self._dir} cannot be written: "
                f"{error.strerror}"
            ) from error

        def spawn() -> subprocess.Popen[bytes]:
            self._records.path(unit, "log.1").unlink(missing_ok=True)
            log_path.unlink(missing_ok=True)
            # appended to: what is written after it was cut stands at its beginning
            with log_path.open("ab") as output:
                return subprocess.Popen(
                    argv,
                    env={**os.environ, **variables, MARK: token},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        try:
            popen = await anyio.to_thread.run_sync(spawn)
        except OSError as error:
            self._records.forget(unit)
            raise UnitError(f"{argv[0]} cannot be started: {error.strerror}") from error
        started = self._records.started(unit, token, popen.pid)
        self._watch(
            unit, _Child(popen.pid, started, os.pidfd_open(popen.pid), asyncio.Event(), popen)
        )

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
        path = self._records.path(model.unit, "log")
        previous = self._records.path(model.unit, "log.1")

        def read() -> list[str]:
            data, begin = _end_of(path, LOG_TAIL_BYTES)
            if len(data) < LOG_TAIL_BYTES and previous.exists():
                before, begin = _end_of(previous, LOG_TAIL_BYTES - len(data))
                data = before + data
                begin = 1  # it was cut itself
            # the first line may be half of one, and begin within a key
            found = data.decode("utf-8", "replace").splitlines()[1 if begin else 0 :]
            keys = known_keys(self._models, self._config)
            return last_masked(found[-(lines + CONTEXT) :], lines, keys)

        return await anyio.to_thread.run_sync(read)

    async def processes_among(self, model: Model, pids: Collection[int]) -> frozenset[int]:
        """By the session, which each child begins."""
        child = self._children.get(model.unit)
        return frozenset(pid for pid in pids if child is not None and _session(pid) == child.pid)

    async def programs(self, model: Model) -> frozenset[str]:
        """Those of its session, and of their descendants, which may have begun other sessions."""
        child = self._children.get(model.unit)
        if child is None:
            return frozenset()
        return await anyio.to_thread.run_sync(programs_of, child.pid)

    async def release(self, model: Model) -> str:
        return await anyio.to_thread.run_sync(release_in, " ".join(self._argv(model)))

    async def account(self, model: Model) -> int | None:
        """The router's own."""
        return os.geteuid()

    async def problem(self) -> str | None:
        """Child processes need nothing that could be missing."""
        return None

    async def _bound_logs(self) -> None:
        """Keep each child's log to `LONGEST_LOG` bytes, and what it writes in a moment."""
        while True:
            await anyio.sleep(LOG_INTERVAL)
            for unit in list(self._children):
                path = self._records.path(unit, "log")
                try:
                    if _size_on_disk(path) > LONGEST_LOG:
                        await anyio.to_thread.run_sync(
                            _cut, path, self._records.path(unit, "log.1")
                        )
                except Exception as error:  # noqa: BLE001 - the other logs grow on
                    log.warning("the log of %s cannot be cut: %r", unit, error)

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
        self._records.forget(unit)
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

    def _find_again(self, found: Found) -> None:
        """Take over the child that an earlier router left running."""
        try:
            pidfd = os.pidfd_open(found.pid)
        except OSError:
            return
        log.info("%s still runs as pid %d", found.unit, found.pid)
        self._watch(found.unit, _Child(found.pid, found.started, pidfd, asyncio.Event()))


def _end_of(path: Path, most: int) -> tuple[bytes, int]:
    """The last ``most`` bytes of a file, and where they begin; nothing of one that is missing."""
    try:
        with path.open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - most)
            file.seek(begin)
            return file.read(most), begin
    except FileNotFoundError:
        return b"", 0


def _size_on_disk(path: Path) -> int:
    """Bytes; a file that was cut while an earlier release's child writes to it has a hole."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _cut(path: Path, previous: Path) -> None:
    """Keep the end of a log as the previous one and empty it; its child goes on writing to it."""
    data, _ = _end_of(path, KEPT_OF_LOG)
    written = previous.with_suffix(".new")
    try:
        written.write_bytes(data)
        written.replace(previous)
    finally:
        os.truncate(path, 0)  # on a full disk most of all


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
