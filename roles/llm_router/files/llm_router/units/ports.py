"""Whose port an engine's is: no key and no prompt goes to a listener of another account.

Any local account may listen on a free port, also on the one that an engine is about to take. The
kernel's tables of sockets, which everybody may read, name the account of each listener (proc(5),
/proc/net/tcp). Root is trusted: it can read all keys anyway, and a container's port is root's.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

import anyio.to_thread

from llm_router.config.schema import Model
from llm_router.units.base import UnitError, Units

TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_LISTENS = "0A"
_LINE = 150
"""Bytes of a line of /proc/net/tcp. The kernel looks no further than what is asked for: reading
more would search its table of connections, which on a large host takes milliseconds."""
_HERE = frozenset(
    (
        "0100007F",  # 127.0.0.1, where engines listen
        "00000000",
        "0" * 32,
        "0000000000000000FFFF00000100007F",
        "0000000000000000FFFF000000000000",
    )
)
"""Addresses of a listener that a connection to 127.0.0.1 may reach, as the tables write them."""


class PortHeld(UnitError):
    """A process of another account listens on an engine's port."""


@dataclass(frozen=True)
class Listener:
    """A socket that listens: the account that made it, and its number."""

    uid: int
    inode: int


def listeners(port: int) -> list[Listener]:
    """Who listens on ``port`` of 127.0.0.1; one at most. Raises `UnitError`.

    The first that is found is all: the kernel lets two listen on one port only for one account.
    Blocks: where none is found, the kernel searches its whole table, some milliseconds.
    """
    try:
        for table in TABLES:
            for found in _listeners(table, port):
                return [found]
        return []
    except OSError as error:
        raise UnitError(
            f"it cannot be told whose port {port} is: {error.filename}: {error.strerror}"
        ) from error


def _listeners(table: str, port: int) -> Iterator[Listener]:
    try:
        lines = _lines(table)
        next(lines, None)
        for line in lines:
            fields = line.split()
            if fields[3] != _LISTENS:
                return  # the kernel names those that listen first
            address, _, number = fields[1].partition(":")
            if int(number, 16) == port and address in _HERE:
                yield Listener(int(fields[7]), int(fields[9]))
    except FileNotFoundError:
        if table.endswith("6"):
            return  # a kernel without IPv6
        raise


def _lines(table: str) -> Iterator[str]:
    descriptor = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest = ""
        while data := os.read(descriptor, _LINE):
            *whole, rest = (rest + data.decode("ascii", "replace")).split("\n")
            yield from whole
    finally:
        os.close(descriptor)


class PortGuard:
    """Says whether the listener on an engine's port is the engine's own.

    What systemd says of a unit's account is asked for once, and again when it does not fit.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self._accounts: dict[str, int] = {}

    async def check(self, model: Model) -> frozenset[int] | None:
        """The numbers of the sockets that listen for the engine; none while nobody listens.

        None: these units cannot tell. Raises `PortHeld`, `UnitError`.
        """
        port = int(model.base_url.rpartition(":")[2])
        found = await anyio.to_thread.run_sync(listeners, port)
        known = self._accounts.get(model.unit)
        if known is None or not all(one.uid in (0, known) for one in found):
            account = await self._units.account(model)
            if account is None:
                return None
            known = self._accounts[model.unit] = account
            found = await anyio.to_thread.run_sync(listeners, port)
        for one in found:
            if one.uid not in (0, known):
                raise PortHeld(
                    f"port {port} is held by a process of the account {name_of(one.uid)}, and "
                    f"{model.unit} runs as {name_of(known)}: no key and no request is sent there; "
                    f"find the process with `ss -ltnp 'sport = :{port}'`"
                )
        return frozenset(one.inode for one in found)


def name_of(uid: int) -> str:
    """An account's name and number, for a person."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
