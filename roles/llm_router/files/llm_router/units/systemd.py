"""Units that systemd runs: watched over D-Bus, which needs no right; changed through the helper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread
from typing_extensions import Self

from llm_router.config.schema import Model
from llm_router.engines.compilers import program_of
from llm_router.helper.client import HelperClient
from llm_router.units.base import (
    Active,
    ManagerUnavailable,
    UnitError,
    Units,
    UnitState,
    release_in,
)
from llm_router.units.dbus import BusUnavailable, ManagerError, SystemdManager, UnitFacts

HELPER_UNIT = "llm-router-helper.socket"
START_TIMEOUT = 180.0
FIRST_BACKOFF = 0.1
# Seconds. The bus is a socket of this host, so a try costs little, and a lost bus that is back
# must be noticed well within the five seconds in which /health has to agree with systemd.
MAX_BACKOFF = 1.0

log = logging.getLogger(__name__)

_ACTIVE: dict[str, Active] = {
    "reloading": "active",
    "refreshing": "active",
    "maintenance": "deactivating",
}


def state_of(facts: UnitFacts) -> UnitState:
    """systemd's words as ours. ``result`` stays while a failed unit waits to be restarted."""
    active = _ACTIVE.get(facts.active_state) or cast(Active, facts.active_state)
    result = "" if facts.result == "success" else facts.result
    return UnitState(
        active,
        facts.main_pid,
        result,
        facts.exit_status,
        facts.exits,
        facts.active_since / 1e6,
    )


class SystemdUnits(Units):
    """The units of the given models.

    Entering does not fail when the bus cannot be reached: `problem` tells, and the connection is
    tried again until it holds. While it is away, `state` raises `UnitError`; what changed in the
    meantime is told as soon as it is back. ``start_timeout`` is for models without one.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        helper_socket: str,
        *,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        super().__init__()
        self._names: dict[str, None] = {}
        self._models: Mapping[str, Model] = {}
        self._dirty = _Dirty(())
        self._socket = Path(helper_socket)
        self._helper = HelperClient(helper_socket)
        self._start_timeout = start_timeout
        self._manager: SystemdManager | None = None
        self._problem: str | None = "the system bus has not been reached yet"
        self._known: dict[str, UnitState] = {}
        self._watching: asyncio.Task[None] | None = None
        self.configure(models)

    def configure(self, models: Mapping[str, Model]) -> None:
        """Watch the units of ``models`` too. Those of before are watched on: they may run yet."""
        self._models = models
        for name in (model.unit for model in models.values()):
            if name not in self._names:
                self._names[name] = None
                self._dirty.add(name)

    async def __aenter__(self) -> Self:
        tried = asyncio.Event()
        self._watching = asyncio.create_task(self._keep_watching(tried))
        await tried.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def activate(self, model: Model) -> bool:
        return await self._helper.activate(model.name)

    async def check(self, model: Model) -> str:
        return await self._helper.check(model.name)

    async def prewarm(self, model: Model) -> int:
        return await self._helper.prewarm(model.name)

    async def start(self, model: Model) -> None:
        await self._helper.start(model.name, model.timeout or self._start_timeout)

    async def stop(self, model: Model, timeout: float) -> None:  # noqa: ASYNC109
        try:
            await self._helper.stop(model.name, timeout)
        except ManagerUnavailable:
            raise
        except UnitError:
            # The helper stops what it has started, and units that models.yml names. An engine that
            # ran before the router and whose model was renamed is neither by its old name.
            renamed = self._other_name(model)
            if renamed is None:
                raise
            await self._helper.stop(renamed, timeout)

    def _other_name(self, model: Model) -> str | None:
        """A model of now that has the unit of a removed one."""
        if model.name in self._models:
            return None
        return next((name for name, m in self._models.items() if m.unit == model.unit), None)

    async def log_tail(
        self, model: Model, lines: int = 20, since: float | None = None
    ) -> list[str]:
        return await self._helper.logs(model.name, lines, since)

    @property
    def _bus(self) -> SystemdManager:
        """Raises `BusUnavailable` while there is no connection."""
        if self._manager is None:
            raise BusUnavailable(self._problem or "the system bus cannot be reached")
        return self._manager

    async def state(self, model: Model) -> UnitState:
        return state_of(await self._bus.facts(model.unit))

    async def processes_among(self, model: Model, pids: Collection[int]) -> frozenset[int]:
        return frozenset(await self._bus.processes(model.unit)) & frozenset(pids)

    async def programs(self, model: Model) -> frozenset[str]:
        commands = await self._bus.commands(model.unit)
        return frozenset(program_of(command_line) for _, command_line in commands)

    async def release(self, model: Model) -> str:
        command = await self._bus.start_command(model.unit)
        return await anyio.to_thread.run_sync(release_in, command)

    async def account(self, model: Model) -> int | None:
        return await self._bus.account(model.unit)

    async def describe_process(self, pid: int) -> str:
        """With its unit, which systemd tells everybody; the name is hidden from most."""
        name = await super().describe_process(pid)
        if self._manager is None:
            return name
        with contextlib.suppress(UnitError):
            return f"{name}, of {await self._manager.unit_of(pid)}"
        return name

    async def problem(self) -> str | None:
        manager = self._manager
        if manager is None:
            return self._problem
        remedy = f"`systemctl start {HELPER_UNIT}` brings it back"
        if not await anyio.Path(self._socket).is_socket():
            return f"the helper's socket {self._socket} is not there; {remedy}"
        try:
            load, active = await manager.active_state(HELPER_UNIT)
        except UnitError as error:
            return str(error)
        # to connect would be the surest test, but it would start the helper each time
        if load == "loaded" and active != "active":
            return f"{HELPER_UNIT} is {active}; {remedy}"
        return None

    async def _keep_watching(self, tried: asyncio.Event) -> None:
        """Hold a connection for ever; ``tried`` is set once it is known how the first try went.

        Nothing but a cancel ends it: a router that no longer watches would wait for ever.
        """
        backoff = FIRST_BACKOFF
        while True:
            began = anyio.current_time()
            try:
                async with SystemdManager() as manager:
                    for name in self._names:
                        self._dirty.add(name)
                    self._manager, self._problem = manager, None
                    await self._tell_changes(manager, tried)
            except UnitError as error:
                if self._problem != str(error):
                    log.warning("%s; trying again", error)
                self._problem = str(error)
            except Exception as error:
                problem = f"the units cannot be watched: {type(error).__name__}: {error}"
                if self._problem != problem:
                    log.exception("the units cannot be watched; trying again")
                self._problem = problem
            finally:
                self._manager = None
                tried.set()
            # what fails as soon as it is connected is not tried ten times a second
            if anyio.current_time() - began > MAX_BACKOFF:
                backoff = FIRST_BACKOFF
            await anyio.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)

    async def _watch(self, manager: SystemdManager, name: str) -> None:
        try:
            identity = (await manager.facts(name)).id
        except ManagerError as error:
            log.warning("unit %s cannot be watched: %s", name, error)
            return
        # signals come from the unit's own name; the one in models.yml may be an alias
        await manager.watch(identity, lambda: self._dirty.add(name))

    async def _tell_changes(self, manager: SystemdManager, tried: asyncio.Event) -> None:
        """Watch every unit, read what changed and tell of it, until the connection is gone.

        A signal only says where to look: what is told is what is true afterwards, read anew, so
        what came in while nobody listened is told as well.
        """
        lost: Exception = BusUnavailable("the connection to the system bus is lost")
        watched: set[str] = set()
        told = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, manager, tasks.cancel_scope)
            while not tasks.cancel_scope.cancel_called:
                if not self._dirty:
                    tried.set()
                    if not told:
                        told = True
                        self._connected()
                name = await self._dirty.next()
                try:
                    if name not in watched:
                        await self._watch(manager, name)
                        watched.add(name)
                    state = state_of(await manager.facts(name))
                except ManagerError:
                    continue
                except Exception as error:  # noqa: BLE001
                    # raised from in here it would be inside an ExceptionGroup
                    lost = error
                    tasks.cancel_scope.cancel()
                    continue
                before = self._known.get(name)
                self._known[name] = state
                if before is not None and state != before:
                    self._tell(name, state)
        raise lost

    def _tell(self, name: str, state: UnitState) -> None:
        try:
            self._changed(name, state)
        except Exception:  # a listener's fault must not end the watching
            log.exception("a listener failed on a change of unit %s", name)


class _Dirty:
    """The names that have to be looked at again, oldest first, each once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._some = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, name: str) -> None:
        self._names[name] = None
        self._some.set()

    async def next(self) -> str:
        while not self._names:
            self._some.clear()
            await self._some.wait()
        name = next(iter(self._names))
        del self._names[name]
        return name


async def _cancel_when_gone(manager: SystemdManager, scope: anyio.CancelScope) -> None:
    await manager.gone()
    scope.cancel()
