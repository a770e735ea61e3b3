"""The helper's server: who asks, for what, and the answer.

It runs as root, so it believes nobody: the peer must be root or the user who owns the socket, the
request must be one of five verbs, and the model must be in models.yml as root wrote it, or have
been there when its unit was started. Units and paths come from there, never from a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from llm_router.activation import activate, why_restart
from llm_router.config.schema import Config, Model
from llm_router.engine_files import EngineFileError
from llm_router.engine_keys import known_keys
from llm_router.helper import jobs
from llm_router.helper.catalog import Catalog, CatalogError, Contents
from llm_router.helper.journal import JournalError, read_journal
from llm_router.helper.protocol import (
    MAX_LINE_LENGTH,
    MAX_REQUEST,
    Kind,
    ProtocolError,
    Request,
    decode_request,
    encode_answer,
)
from llm_router.helper.started import Started
from llm_router.logs.masking import CONTEXT, last_masked
from llm_router.prewarm import in_thread
from llm_router.server import watchdog
from llm_router.units.base import ManagerUnavailable, UnitError
from llm_router.units.dbus import SystemdManager
from llm_router.units.host_faults import is_host_fault

IDLE = 900.0
"""Seconds without a request after which the helper ends; systemd starts it again for the next."""
REQUEST_TIMEOUT = 5.0
ANSWER_TIMEOUT = 10.0
DRAIN_TIMEOUT = 50.0
"""Seconds that running verbs get after SIGTERM; less than the unit's TimeoutStopSec."""
MAX_CONNECTIONS = 64

_FIRST_SOCKET = 3  # sd_listen_fds(3)
_PEER = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

Connect = Callable[[], AbstractAsyncContextManager[jobs.Manager]]
ReadJournal = Callable[[str, int, "float | None"], Awaitable[list[str]]]

log = logging.getLogger("llm_router.helper")


class HelperServer:
    """Answers requests on a listening socket.

    ``peers`` are the users who may ask. ``connect`` gives a connection to systemd for one verb: a
    bus that was restarted in between is then no concern of ours.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        peers: frozenset[int],
        connect: Connect = SystemdManager,
        journal: ReadJournal = read_journal,
        started: Started | None = None,
    ) -> None:
        self._catalog = catalog
        self._peers = peers
        self._connect = connect
        self._journal = journal
        self._started = started or Started()
        self._units: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._active = 0
        self._drained = anyio.Event()
        self._turned = time.monotonic()
        self._ending = False

    async def serve(self, listener: socket.socket, idle: float = IDLE) -> None:
        """Serve until SIGTERM, or until ``idle`` seconds went without a request.

        What is being done is done first. The socket's file is systemd's and stays, which is why
        this is not asyncio's own server: from Python 3.13 on that one removes it.
        """
        listener.setblocking(False)
        async with anyio.create_task_group() as tasks:
            accepting = anyio.CancelScope()
            tasks.start_soon(_cancel_at_signal, accepting)
            tasks.start_soon(watchdog.keep_alive, self._able)
            with accepting:
                while True:
                    connection = await self._accept(listener, idle)
                    if connection is None:
                        break
                    self._active += 1
                    tasks.start_soon(self._connection, connection)
            self._ending = True
            with anyio.move_on_after(DRAIN_TIMEOUT):
                while self._active:
                    await self._drained.wait()
                    self._drained = anyio.Event()
            tasks.cancel_scope.cancel()

    async def _accept(self, listener: socket.socket, idle: float) -> socket.socket | None:
        """The next connection; None when none came for so long, and nothing is being done."""
        since = time.monotonic()
        while True:
            self._turned = time.monotonic()
            with anyio.move_on_after(min(idle, watchdog.interval() or idle)):
                # not sock_accept: at the end of this time it could lose a connection
                await anyio.wait_readable(listener)
                with contextlib.suppress(BlockingIOError):
                    return listener.accept()[0]
            if time.monotonic() - since < idle:
                continue
            if not self._active:
                log.info("idle for %g s; systemd starts the helper again when it is needed", idle)
                return None
            since = time.monotonic()

    async def _able(self) -> bool:
        """Whether a request would be served: it is accepted, and gets a thread.

        After SIGTERM nothing is accepted; the unit's TimeoutStopSec ends what does not end then.
        """
        await anyio.to_thread.run_sync(_nothing)
        late = time.monotonic() - self._turned
        return self._ending or late < watchdog.SENT_PER_LIMIT * (watchdog.interval() or 0)

    async def _connection(self, connection: socket.socket) -> None:
        try:
            peer = _PEER.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            )[1]
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_REQUEST)
            try:
                answer = await self._converse(reader, peer)
                if answer is not None:
                    with anyio.fail_after(ANSWER_TIMEOUT):
                        writer.write(encode_answer(answer))
                        await writer.drain()
            finally:
                writer.close()
        except (OSError, TimeoutError) as error:
            log.warning("a connection was lost: %s", str(error) or type(error).__name__)
        except Exception:  # one connection's fault must not end the others
            log.exception("a connection failed")
        finally:
            self._active -= 1
            self._drained.set()

    async def _converse(self, reader: asyncio.StreamReader, peer: int) -> dict[str, Any] | None:
        """Read the request and act on it; None when the peer left without having asked."""
        if self._active > MAX_CONNECTIONS:
            log.warning("more than %d connections at once", MAX_CONNECTIONS)
            return _refusal("the helper has too many requests at once")
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                line = await reader.readuntil(b"\n")
            # not before the line is read: a socket that is closed with unread bytes resets the
            # connection, and the answer would be lost
            if peer not in self._peers:
                log.warning("user %d may not use the helper", peer)
                return _refusal("only root and the router's user may use the helper")
            request = decode_request(line)
        except asyncio.IncompleteReadError as error:
            return _refusal("the line has no end") if error.partial else None
        except asyncio.LimitOverrunError:
            return _refusal(f"a request has at most {MAX_REQUEST} bytes")
        except TimeoutError:
            return _refusal(f"no request came within {REQUEST_TIMEOUT:g} s")
        except ProtocolError as error:
            log.warning("bad request from user %d: %s", peer, error)
            return _refusal(str(error))
        return await self._answer_while_wanted(request, reader)

    async def _answer_while_wanted(
        self, request: Request, reader: asyncio.StreamReader
    ) -> dict[str, Any] | None:
        """The answer; None if the client left and its request could be taken back."""
        answer = None
        async with anyio.create_task_group() as tasks:
            if request.verb in ("prewarm", "start", "logs"):
                tasks.start_soon(_cancel_at_end, reader, tasks.cancel_scope)
            answer = await self.answer(request)
            tasks.cancel_scope.cancel()
        if answer is None:
            log.info("%s %s: taken back, the client left", request.verb, request.model)
        return answer

    async def answer(self, request: Request) -> dict[str, Any]:
        """Do what a request asks; every failure is an answer."""
        began = time.monotonic()
        unit = "-"
        try:
            contents = await anyio.to_thread.run_sync(self._catalog.read)
            model = contents.models.get(request.model)
            known = model is not None and model.service is not None
            unit = self._started.get(request.model) or "-"
            if request.verb == "stop" and unit != "-":
                result = await self._stop(request, unit, contents.config)
            elif request.verb == "logs" and unit != "-" and not known:
                result = await self._logs(request, unit, contents)
            elif model is None or model.service is None:
                raise UnitError(f"model {request.model!r} is not in models.yml")
            else:
                unit = model.service
                result = await self._do(request, model, unit, contents)
        except (UnitError, CatalogError, EngineFileError, JournalError) as error:
            log.warning("%s %a %s: %s", request.verb, request.model, unit, error)
            return _refusal(str(error), _kind_of(error))
        except Exception as error:  # a fault of ours must not end what others wait for
            log.exception("%s %a %s failed", request.verb, request.model, unit)
            return _refusal(
                f"the helper failed with {type(error).__name__}: {error}; "
                "`journalctl -u llm-router-helper` says where",
                "host",
            )
        seconds = time.monotonic() - began
        log.info(
            "%s %a %s: %s in %.3f s", request.verb, request.model, unit, _said(result), seconds
        )
        return {"ok": True, **result}

    async def _do(
        self, request: Request, model: Model, unit: str, contents: Contents
    ) -> dict[str, Any]:
        config = contents.config
        if request.verb == "logs":
            return await self._logs(request, unit, contents)
        if request.verb == "stop":
            return await self._stop(request, unit, config)
        if request.verb == "prewarm":
            return {"bytes": await in_thread(model.model_path)}
        async with self._units[unit]:
            if request.verb == "activate":
                changed = await self._activate(model, unit, contents, check=request.check)
                return {"changed": changed, **(await _restart(model, contents, request.check))}
            self._started.add(model.name, unit)
            async with self._connect() as manager:
                timeout = request.timeout or model.timeout or config.switch.timeout
                await jobs.start(manager, unit, timeout)
            return {"result": "done"}

    async def _logs(self, request: Request, unit: str, contents: Contents) -> dict[str, Any]:
        """The journal's lines without keys: the router shows them to administrators, and none of
        them needs an engine's key."""
        lines = await self._journal(unit, request.lines + CONTEXT, request.since)

        def without_keys() -> list[str]:
            keys = known_keys(contents.models, contents.config)
            # cut afterwards: half a key would not be known
            shown = last_masked(lines, request.lines, keys)
            return [line[:MAX_LINE_LENGTH] for line in shown]

        return {"lines": await anyio.to_thread.run_sync(without_keys)}

    async def _stop(self, request: Request, unit: str, config: Config) -> dict[str, Any]:
        """Stop what runs for the model: the unit that was started, be it another one by now."""
        async with self._units[unit]:
            async with self._connect() as manager:
                await jobs.stop(manager, unit, request.timeout or config.switch.stop_timeout)
            self._started.remove(request.model)
        return {"result": "done"}

    async def _activate(self, model: Model, unit: str, contents: Contents, *, check: bool) -> bool:
        results = await anyio.to_thread.run_sync(
            activate, [model.name], contents.models, contents.config, check
        )
        if check:
            return any(result.changed for result in results)
        for result in results:
            if result.changed:
                log.info("wrote %s", result.path)
        if results:
            async with self._connect() as manager:
                # asked for even when nothing changed now: whoever wrote the files may not have
                # got as far as the reload
                if (
                    any(result.daemon_reload for result in results)
                    or (await manager.facts(unit)).need_daemon_reload
                ):
                    await manager.reload()
        return any(result.changed for result in results)


async def serve_helper(config_path: Path) -> None:
    """``llm-router helper``: serve on the socket that systemd passed until SIGTERM or idle.

    Raises `UnitError` when there is no such socket.
    """
    listener = listening_socket()
    with listener:
        owner = (await anyio.Path(listener.getsockname()).stat()).st_uid
        # systemd's RuntimeDirectory=; it stays when the helper ends, and goes with the boot
        directory = os.environ.get("RUNTIME_DIRECTORY")
        started = Started(Path(directory) / "started.json" if directory else None)
        server = HelperServer(Catalog(config_path), peers=frozenset({0, owner}), started=started)
        # the watchdog's time begins with this: a slow start is not a blocked helper
        watchdog.notify("READY=1")
        await server.serve(listener)


def listening_socket() -> socket.socket:
    """The socket that systemd passed, by sd_listen_fds(3). Raises `UnitError`."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise UnitError(
            "the helper takes its socket from systemd; `systemctl start llm-router-helper.socket`"
        )
    # what this process starts is not what the socket was meant for
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(_FIRST_SOCKET, False)
    listener = socket.socket(fileno=_FIRST_SOCKET)
    if listener.family != socket.AF_UNIX or not isinstance(listener.getsockname(), str):
        raise UnitError("the socket from systemd is not a Unix socket with a path")
    return listener


async def _restart(model: Model, contents: Contents, asked: bool) -> dict[str, str]:
    """``restart``: why an engine that stays must be restarted for the model; left out if not."""
    if not asked:
        return {}
    reason = await anyio.to_thread.run_sync(why_restart, model, contents.models, contents.config)
    return {"restart": reason} if reason else {}


def _nothing() -> None:
    """For a thread of the pool: that it is called says that the pool works."""


async def _cancel_at_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _number in signals:
            scope.cancel()


async def _cancel_at_end(reader: asyncio.StreamReader, scope: anyio.CancelScope) -> None:
    with contextlib.suppress(OSError):  # left without a good-bye is left too
        while await reader.read(MAX_REQUEST):
            pass
    scope.cancel()


def _said(result: dict[str, Any]) -> str:
    if "changed" in result:
        return "changed" if result["changed"] else "unchanged"
    if "bytes" in result:
        return f"{result['bytes']} bytes"
    return str(result.get("result", f"{len(result.get('lines', ()))} lines"))


def _kind_of(error: Exception) -> Kind:
    """Files that cannot be trusted, systemd that is away and a disk that is full stop every model
    alike."""
    hosts = isinstance(error, (CatalogError, JournalError, ManagerUnavailable))
    return "host" if hosts or is_host_fault(error) else "model"


def _refusal(error: str, kind: Kind = "host") -> dict[str, Any]:
    return {"ok": False, "error": error, "kind": kind}
