"""``llm-router serve``: the application on its TCP port and on the admin socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from llm_router.allocator import map_large_blocks
from llm_router.api import create_app
from llm_router.api.errors import stopping
from llm_router.api.reload import Reloader
from llm_router.api.services import Services
from llm_router.background import keep_running
from llm_router.cli.exits import Exit
from llm_router.config.load import Settings
from llm_router.config.schema import Config
from llm_router.events import RouterStopping
from llm_router.garbage import collect_when_quiet
from llm_router.http_protocol import Bounds, bounded
from llm_router.server.watchdog import keep_alive, notify

log = logging.getLogger(__name__)


ACCEPTED_AT_ONCE = 8
"""Connections that are taken in one turn of the event loop: asyncio takes as many as its listener's
backlog, and a thousand of them would hold up everybody else's tokens for half a second."""
BACKLOG = 2048
"""Connections that may wait in the kernel to be taken."""
QUIET = 200
"""With so few requests in flight, looking for cyclic garbage takes some 10 ms."""
FILES_APART = 256
"""Open files for everything but requests: the journal, the bus, units, health checks."""
PORT_WITHIN = 30.0
"""Seconds that the port may take to become free: a router that is stopped may still answer."""
LAST_WORDS = 5
"""Seconds beyond ``requests.shutdown_timeout`` for clients to read that their answer was ended."""


class _Server(uvicorn.Server):
    """uvicorn, that tells systemd when it listens and when it stops listening."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._app = app
        self._patience = settings.config.requests.shutdown_timeout
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded(bounds_of(settings.config)),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=ACCEPTED_AT_ONCE,
                loop="llm_router.event_loop:new",
                # X-Forwarded-For is anybody's to write; nothing here trusts an address
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(self._patience) + LAST_WORDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End orderly. uvicorn's own would have the process killed by the signal in the end, before
        anything that comes after it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
        if self.started:
            reloader: Reloader = self._app.state.reloader
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.soon)
            services: Services = self._app.state.services
            collect = partial(collect_when_quiet, lambda: len(services.in_flight) < QUIET)
            self._collecting = asyncio.create_task(
                keep_running("garbage", collect, services.events)
            )
            self._watched = asyncio.create_task(
                keep_running("watchdog", keep_alive, services.events)
            )
            notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so to systemd, to who looks at the health, and to all who wait; then let running
        answers end."""
        notify("STOPPING=1")
        self._collecting.cancel()
        services: Services = self._app.state.services
        patience = await self._give_notice(services)
        services.scheduler.stop()
        services.events.publish(RouterStopping())
        ending = asyncio.create_task(self._end_answers(services, patience))
        await super().shutdown(sockets=sockets)
        ending.cancel()

    async def _give_notice(self, services: Services) -> float:
        """Go on serving until a balancer has had the time to send its requests elsewhere (one that
        was drained before has), and until those that came before that wait no more; returns what
        is left of the time for answers, in seconds."""
        notice = services.settings.config.requests.shutdown_notice
        drained, services.draining = services.draining, True
        if not notice:
            return self._patience
        if not drained:
            await asyncio.sleep(notice)
        until = services.clock() + self._patience
        # a tenth of a second late does no harm
        while services.clock() < until and _some_wait(services):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return max(0.0, until - services.clock())

    async def _end_answers(self, services: Services, patience: float) -> None:
        await asyncio.sleep(patience)
        for exchange in list(services.in_flight.values()):
            exchange.end(stopping())


def _some_wait(services: Services) -> bool:
    return any(not exchange.served for exchange in services.in_flight.values())


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; 0, `Exit.PORT_TAKEN` when another process has the port, or 1
    when an address cannot be had."""
    map_large_blocks()
    config = settings.config
    if not settings.keys:
        log.warning("no API key is configured: whoever reaches the port may use and switch models")
    try:
        sockets = [_listen_patiently(config), _listen_unix(Path(config.admin_socket))]
    except OSError as error:
        log.error("cannot listen: %s", error.strerror or error)
        return Exit.PORT_TAKEN if error.errno == errno.EADDRINUSE else Exit.NOT_DONE
    server = _Server(create_app(settings), settings)
    try:
        server.run(sockets=sockets)
    finally:
        Path(config.admin_socket).unlink(missing_ok=True)
    return 0 if server.started else 1


def bounds_of(config: Config) -> Bounds:
    """What connections may cost. A request takes two files, its client's connection and its
    engine's: more connections than the limit of open files allows are not accepted."""
    most = config.requests.max_connections
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY:
        room = max(1, (files - FILES_APART) // 2)
        if room < most:
            log.warning(
                "requests.max_connections is %d, and %d open files (LimitNOFILE) are enough for "
                "%d: that many connections are accepted",
                most,
                files,
                room,
            )
            most = room
    return Bounds(config.requests.header_timeout, most)


def _listen_patiently(config: Config) -> socket.socket:
    """The public port, once the process that has it has ended. Raises OSError."""
    until = time.monotonic() + PORT_WITHIN
    waits = False
    while True:
        try:
            return listen_tcp(config)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            port = config.listen.port
            find = f"find the process with `ss -ltnp 'sport = :{port}'`"
            if time.monotonic() >= until:
                what = f"{error.strerror} for {PORT_WITHIN:g} s; {find}, and stop it"
                raise OSError(error.errno, f"{what}, or set listen.port") from error
            if not waits:
                log.warning("%s; waiting for %g s; %s", error.strerror, PORT_WITHIN, find)
                waits = True
        time.sleep(0.1)


def listen_tcp(config: Config) -> socket.socket:
    """The public port. Raises OSError that names it."""
    host, port = config.listen.host, config.listen.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # Python's own words name the address once more
        why = os.strerror(error.errno) if error.errno else str(error)
        what = f"{host} port {port}: {why}"
        raise OSError(error.errno, what) from error
    # a client that takes no more of its answer loses its connection, and its lease with it;
    # connections have this from their listener (tcp(7))
    timeout = round(config.requests.client_timeout * 1000)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
    # asyncio sets it only where a socket's protocol is given by number, and without it a token may
    # wait 40 ms for the client's acknowledgement of the one before
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """The admin socket, for the router's own user and root alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise OSError(f"{path}: {error.strerror or error}") from error
    return listener
