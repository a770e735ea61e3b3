"""A new configuration under a running router: what did not change is not touched."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio

from llm_router.api.services import Services, limits_of, preload, units_of
from llm_router.background import in_background
from llm_router.config.diff import Changes, compare, without_restart
from llm_router.config.errors import ConfigError, Problem
from llm_router.config.load import Settings, load_settings
from llm_router.logs import use_format

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at the files; they are read when they look the same twice."""


class Reloader:
    """Reads the files again: when asked to, and when they change."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = anyio.Lock()
        self._waiting: dict[bool, asyncio.Task[Changes]] = {}
        """By ``dry_run``: the reading that waits for the one that runs."""
        self._tasks: set[asyncio.Task[Changes]] = set()
        self._reported: bytes | None = None
        """What the files had in them when their problems were last logged."""

    async def reload(self, *, dry_run: bool = False) -> Changes:
        """Take over what the files say now; with ``dry_run`` only say what would change.

        One reading runs and one waits: all who ask meanwhile share the one that waits, since it
        begins after each of them has asked. Raises `ConfigError`, whatever is wrong, and then the
        old configuration goes on.
        """
        return await asyncio.shield(self._turn(dry_run))

    def soon(self) -> None:
        """Have `reload` done; what is wrong is in the log."""
        self._turn(dry_run=False)

    def _turn(self, dry_run: bool) -> asyncio.Task[Changes]:
        waiting = self._waiting.get(dry_run)
        if waiting is None:
            waiting = asyncio.create_task(self._in_turn(dry_run))
            self._waiting[dry_run] = waiting
            self._tasks.add(waiting)
            waiting.add_done_callback(self._ended)
        return waiting

    def _ended(self, task: asyncio.Task[Changes]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody need wait for it

    async def _in_turn(self, dry_run: bool) -> Changes:
        async with self._lock:
            del self._waiting[dry_run]
            try:
                return await self._reload(dry_run)
            except Exception as error:
                await self._report(error)
                if isinstance(error, ConfigError):
                    raise
                path = str(self._services.settings.config_path)
                what = f"cannot be applied: {type(error).__name__}: {error}"
                remedy = "this is a fault of the router: its log has the details"
                raise ConfigError([Problem(path, 0, "", what, remedy)]) from error

    async def _reload(self, dry_run: bool) -> Changes:
        current = self._services.settings
        new = await anyio.to_thread.run_sync(
            load_settings, current.config_path, current.models_path, current.keys_path
        )
        changes = compare(current, new)
        if not dry_run and (changes or changes.restart):
            self._apply(new, changes)
        self._reported = None
        return changes

    async def _report(self, error: Exception) -> None:
        """In the log, once for each content of the files."""
        content = await anyio.to_thread.run_sync(_digest, self._paths())
        if content == self._reported:
            return
        self._reported = content
        if not isinstance(error, ConfigError):
            log.error("the new configuration cannot be applied", exc_info=error)
            return
        log.error("the new configuration is refused, the old one goes on")
        for problem in error.problems:
            log.error("%s", problem)

    def _apply(self, new: Settings, changes: Changes) -> None:
        services = self._services
        old = services.settings
        services.settings = replace(new, config=without_restart(old.config, new.config))
        use_format(services.settings.config.log.format)
        services.switcher.configure(services.settings)
        services.learned.configure(services.settings.models)
        services.units.configure(services.settings.models)
        groups = {name: model.group for name, model in new.models.items()}
        services.scheduler.configure(groups, limits_of(new), changes.relaunch, units_of(new))
        services.reconciler.look_everywhere()
        preload(services, [*changes.added, *changes.relaunch, *changes.updated])
        log.info("new configuration: %s", describe(changes))
        if changes.restart:
            log.warning("not before the router is restarted: %s", ", ".join(changes.restart))

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Reload whenever one of the files changed, for as long as the block runs."""
        return in_background("reload", self._watch, self._services.events)

    async def _watch(self) -> None:
        read = self._stamps()
        before = read
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = self._stamps()
            # a file that is being written is left alone until it rests
            if now != read and now == before:
                read = now
                # nothing may end the watching; what is wrong is in the log
                try:
                    await self.reload()
                except ConfigError:
                    pass
                except Exception:
                    log.exception("the configuration files cannot be read again")
            before = now

    def _paths(self) -> tuple[Path, ...]:
        settings = self._services.settings
        return settings.config_path, settings.models_path, settings.keys_path

    def _stamps(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_stamp(path) for path in self._paths())


def describe(changes: Changes) -> str:
    """For a log line."""
    parts = [
        f"{label} {', '.join(names)}"
        for label, names in (
            ("models added:", changes.added),
            ("models removed:", changes.removed),
            ("models to be started anew:", changes.relaunch),
            ("models updated:", changes.updated),
            ("config:", changes.config),
        )
        if names
    ]
    if changes.keys:
        parts.append("API keys")
    return "; ".join(parts) or "nothing"


def _digest(paths: tuple[Path, ...]) -> bytes:
    """Another one for other contents; a file that cannot be read counts as empty. Blocks."""
    digest = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.digest()


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes whenever the file does: one call on a local file, not worth a thread."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
