"""``llm-router serve``: the application on its TCP port and on the admin socket."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path

import uvicorn

from llm_router.api import create_app
from llm_router.config.load import Settings
from llm_router.config.schema import Config

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn, that tells systemd when it listens and when it stops listening."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            _notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so, then let running answers end."""
        _notify("STOPPING=1")
        await super().shutdown(sockets=sockets)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; 0, or 1 when an address cannot be had."""
    config = settings.config
    if not settings.keys:
        log.warning("no API key is configured: whoever reaches the port may use and switch models")
    try:
        sockets = [_listen_tcp(config), _listen_unix(Path(config.admin_socket))]
    except OSError as error:
        log.error("cannot listen: %s", error)
        return 1
    server = _Server(
        uvicorn.Config(
            create_app(settings),
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # X-Forwarded-For is anybody's to write; nothing here trusts an address
            proxy_headers=False,
            timeout_graceful_shutdown=int(config.requests.shutdown_timeout),
        )
    )
    try:
        server.run(sockets=sockets)
    except KeyboardInterrupt:
        pass
    finally:
        Path(config.admin_socket).unlink(missing_ok=True)
    return 0 if server.started else 1


def _listen_tcp(config: Config) -> socket.socket:
    host, port = config.listen.host, config.listen.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"{host} port {port}: {error.strerror or error}") from error


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


def _notify(state: str) -> None:
    """systemd's notify protocol (sd_notify(3)): one datagram, where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        try:
            client.sendto(state.encode(), address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", state, error)
