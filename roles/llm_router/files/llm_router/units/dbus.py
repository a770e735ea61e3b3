"""systemd's manager over the system bus: the few calls, properties and signals that units need.

One `SystemdManager` is one connection. It is never mended: when the bus or systemd goes away,
`gone` returns, every call fails, and whoever owns it makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, DBusError, InvalidMessageError
from typing_extensions import Self

from llm_router.units.base import ManagerUnavailable, UnitError
from llm_router.units.host_faults import BUS_ERRORS

CALL_TIMEOUT = 30.0
_NO_UID = 2**32 - 1

_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_SYSTEMD = "org.freedesktop.systemd1"
_ROOT = "/org/freedesktop/systemd1"
_MANAGER = f"{_SYSTEMD}.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"

_LOST_MESSAGE = "the connection to the system bus is lost"
_LOST = (OSError, EOFError, AuthError, DBusError, InvalidMessageError)


class BusUnavailable(ManagerUnavailable):
    """The system bus, or systemd on it, cannot be reached."""


class ManagerError(UnitError):
    """systemd refused a call; ``name`` is the D-Bus error's name without its prefix."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name.rpartition(".")[2]


@dataclass(frozen=True)
class UnitFacts:
    """A unit's properties, by systemd's names and in systemd's words."""

    id: str
    load_state: str
    active_state: str
    main_pid: int
    result: str
    need_daemon_reload: bool
    sub_state: str = ""
    restarts: int = 0
    """How often systemd itself restarted it (NRestarts) since it was last started by a job of
    somebody or its failures were reset."""
    exit_status: int = 0
    """Of the main process that ended last: exit code or number of the signal."""
    active_since: int = 0
    """Microseconds of the monotonic clock."""

    @property
    def exits(self) -> int:
        """How often its main process ended and systemd restarted it, or is about to."""
        return self.restarts + self.sub_state.startswith("auto-restart")


_FACTS = (
    ("Unit", "Id"),
    ("Unit", "LoadState"),
    ("Unit", "ActiveState"),
    ("Service", "MainPID"),
    ("Service", "Result"),
    ("Unit", "NeedDaemonReload"),
    ("Unit", "SubState"),
    ("Service", "NRestarts"),
    ("Service", "ExecMainStatus"),
    ("Unit", "ActiveEnterTimestampMonotonic"),
)


def unit_path(unit: str) -> str:
    """The object path of a unit: every byte but ASCII letters and digits becomes ``_xx``."""
    escaped = [
        chr(byte)
        if chr(byte).isalnum() and byte < 0x80 and not (index == 0 and chr(byte).isdigit())
        else f"_{byte:02x}"
        for index, byte in enumerate(unit.encode())
    ]
    return f"{_ROOT}/unit/{''.join(escaped) or '_'}"


class SystemdManager:
    """A connection, entered as a context. Every method raises `BusUnavailable` or `ManagerError`.

    Signals are believed only from the process that owns systemd's name: the bus hands on whatever
    any local user sends to this connection.
    """

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._systemd = ""
        self._gone: asyncio.Future[None] | None = None
        self._disconnected: asyncio.Task[None] | None = None
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._queuing = 0
        self._early: dict[str, str] = {}
        self._hears_jobs = False
        self._watchers: dict[str, Callable[[], None]] = {}

    async def __aenter__(self) -> Self:
        self._gone = asyncio.get_running_loop().create_future()
        try:
            with anyio.fail_after(CALL_TIMEOUT):
                self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        except (*_LOST, TimeoutError) as error:
            raise BusUnavailable(f"the system bus cannot be reached: {_reason(error)}") from error
        self._disconnected = asyncio.ensure_future(self._wait_for_disconnect(self._bus))
        try:
            self._bus.add_message_handler(self._on_message)
            owner_rule = f"type='signal',sender='{_BUS[0]}',member='NameOwnerChanged'"
            await self._call(*_BUS, "AddMatch", "s", f"{owner_rule},arg0='{_SYSTEMD}'")
            (self._systemd,) = await self._call(*_BUS, "GetNameOwner", "s", _SYSTEMD)
            # systemd sends no signals while nobody has said that they are wanted
            await self._manager("Subscribe")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._bus is not None and self._bus.connected:
            self._bus.disconnect()
        if self._disconnected is not None:
            self._disconnected.cancel()
        self._lose()

    async def gone(self) -> None:
        """Return when the connection is of no use any more."""
        if self._gone is not None:
            await asyncio.shield(self._gone)

    async def facts(self, unit: str) -> UnitFacts:
        """The unit's properties now. A unit that does not exist has load state ``not-found``."""
        path = unit_path(unit)
        answers = await asyncio.gather(
            *(
                self._call(
                    _SYSTEMD, path, _PROPERTIES, "Get", "ss", f"{_SYSTEMD}.{interface}", name
                )
                for interface, name in _FACTS
            )
        )
        return UnitFacts(*(answer[0].value for answer in answers))

    async def active_state(self, unit: str) -> tuple[str, str]:
        """(load state, active state) of a unit of any type."""
        path, interface = unit_path(unit), f"{_SYSTEMD}.Unit"
        load = await self._call(_SYSTEMD, path, _PROPERTIES, "Get", "ss", interface, "LoadState")
        active = await self._call(
            _SYSTEMD, path, _PROPERTIES, "Get", "ss", interface, "ActiveState"
        )
        return load[0].value, active[0].value

    async def account(self, unit: str) -> int:
        """The user id of a service's processes."""
        path, interface = unit_path(unit), f"{_SYSTEMD}.Service"
        (uid,) = await self._call(_SYSTEMD, path, _PROPERTIES, "Get", "ss", interface, "UID")
        if uid.value != _NO_UID:
            return int(uid.value)
        # it has not run yet, or it has no User= and is root's
        (user,) = await self._call(_SYSTEMD, path, _PROPERTIES, "Get", "ss", interface, "User")
        if not user.value:
            return 0
        try:
            return int(user.value) if user.value.isdigit() else pwd.getpwnam(user.value).pw_uid
        except KeyError as error:
            raise UnitError(f"{unit}: there is no account {user.value}") from error

    async def watch(self, unit: str, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever a property of the unit may have changed."""
        path = unit_path(unit)
        self._watchers[path] = changed
        await self._match(path, _PROPERTIES, "PropertiesChanged")

    async def processes(self, unit: str) -> list[int]:
        """The ids of the processes in the unit's control group."""
        return [pid for pid, _ in await self.commands(unit)]

    async def commands(self, unit: str) -> list[tuple[int, str]]:
        """The processes in the unit's control group: id and command line. systemd tells everybody,
        also who is not shown other users' processes in /proc."""
        try:
            (processes,) = await self._manager("GetUnitProcesses", "s", unit)
        except ManagerError as error:
            if error.name == "NoSuchUnit":
                return []
            raise
        return [(pid, command_line) for _, pid, command_line in processes]

    async def start_command(self, unit: str) -> str:
        """A service's ExecStart=, its arguments with a space between them."""
        path, interface = unit_path(unit), f"{_SYSTEMD}.Service"
        (lines,) = await self._call(
            _SYSTEMD, path, _PROPERTIES, "Get", "ss", interface, "ExecStart"
        )
        return " ".join(word for line in lines.value for word in line[1])

    async def unit_of(self, pid: int) -> str:
        """The unit that a process belongs to, be it a session's or a container's."""
        (path,) = await self._manager("GetUnitByPID", "u", pid)
        interface = f"{_SYSTEMD}.Unit"
        (identity,) = await self._call(_SYSTEMD, path, _PROPERTIES, "Get", "ss", interface, "Id")
        return str(identity.value)

    async def queue_start(self, unit: str) -> str:
        """Queue a start job; its object path is what `job_result` and `cancel_job` take."""
        return await self._queue("StartUnit", unit)

    async def queue_stop(self, unit: str) -> str:
        """Queue a stop job."""
        return await self._queue("StopUnit", unit)

    async def job_result(self, job: str) -> str:
        """Wait for the end of a job that was queued here: ``done``, ``failed``, ``canceled``, …"""
        return await asyncio.shield(self._jobs[job])

    async def cancel_job(self, job: str) -> None:
        """Take a job back; one that has ended already is no error."""
        with contextlib.suppress(ManagerError):
            await self._call(_SYSTEMD, job, f"{_SYSTEMD}.Job", "Cancel")

    async def reset_failed(self, unit: str) -> None:
        """Forget the unit's failures and its start limit; a unit that is not loaded has none."""
        try:
            await self._manager("ResetFailedUnit", "s", unit)
        except ManagerError as error:
            if error.name != "NoSuchUnit":
                raise

    async def kill(self, unit: str) -> None:
        """SIGKILL for every process of the unit."""
        try:
            await self._manager("KillUnit", "ssi", unit, "all", 9)
        except ManagerError as error:
            if error.name not in ("NoSuchProcess", "NoSuchUnit"):
                raise

    async def reload(self) -> None:
        """systemctl daemon-reload."""
        await self._manager("Reload")

    async def _queue(self, method: str, unit: str) -> str:
        if not self._hears_jobs:  # who queues nothing is not woken by every job of the host
            await self._match(_ROOT, _MANAGER, "JobRemoved")
            self._hears_jobs = True
        self._queuing += 1
        try:
            (job,) = await self._manager(method, "ss", unit, "replace")
            # systemd merges jobs: the same one may have been named before
            future = self._jobs.setdefault(job, asyncio.get_running_loop().create_future())
            if job in self._early and not future.done():
                future.set_result(self._early[job])
            elif not future.done() and self._gone is not None and self._gone.done():
                raise BusUnavailable(_LOST_MESSAGE)
        finally:
            self._queuing -= 1
            if not self._queuing:
                self._early.clear()
        return str(job)

    async def _manager(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        return await self._call(_SYSTEMD, _ROOT, _MANAGER, member, signature, *body)

    async def _match(self, path: str, interface: str, member: str) -> None:
        rule = f"type='signal',sender='{_SYSTEMD}',path='{path}',interface='{interface}'"
        await self._call(*_BUS, "AddMatch", "s", f"{rule},member='{member}'")

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
    ) -> list[Any]:
        if self._bus is None or not self._bus.connected:
            raise BusUnavailable(_LOST_MESSAGE)
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            with anyio.fail_after(CALL_TIMEOUT):
                reply = await self._bus.call(message)
        except TimeoutError as error:
            raise BusUnavailable(
                f"systemd did not answer {member} within {CALL_TIMEOUT:g} s"
            ) from error
        except _LOST as error:
            raise BusUnavailable(f"{_LOST_MESSAGE}: {_reason(error)}") from error
        if reply is None:
            raise BusUnavailable(_LOST_MESSAGE)
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else str(reply.error_name)
            refused = ManagerError(str(reply.error_name), text)
            if refused.name in BUS_ERRORS:
                raise BusUnavailable(f"systemd did not answer {member}: {text}") from refused
            raise refused
        return list(reply.body)

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "NameOwnerChanged" and message.sender == _BUS[0]:
            if message.body[0] == _SYSTEMD:  # a new systemd knows nothing of our subscription
                self._lose()
        elif message.sender != self._systemd:
            return
        elif message.member == "JobRemoved":
            _, job, _, result = message.body
            future = self._jobs.get(job)
            if future is not None:
                if not future.done():
                    future.set_result(result)
            elif self._queuing:
                # it may come before the reply that names the job
                self._early[job] = result
        elif message.member == "PropertiesChanged" and message.path in self._watchers:
            self._watchers[message.path]()

    async def _wait_for_disconnect(self, bus: MessageBus) -> None:
        # whatever it was that ended the connection, it has ended
        with contextlib.suppress(Exception):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._lose()

    def _lose(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        for future in self._jobs.values():
            if not future.done():
                future.set_exception(BusUnavailable(_LOST_MESSAGE))
                future.exception()  # nobody may be waiting


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
