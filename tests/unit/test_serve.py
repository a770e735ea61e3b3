"""What the router's connections are like."""

from __future__ import annotations

import socket

from llm_router.config.schema import Config
from llm_router.serve import listen_tcp


def test_connections_have_what_their_listener_has() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = Config.model_validate({"listen": {"port": port}, "requests": {"client_timeout": 7}})
    with listen_tcp(config) as listener, socket.create_connection(("127.0.0.1", port)):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
