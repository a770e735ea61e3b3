"""What the router's connections are like."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

import pytest

from llm_router import serve
from llm_router.cli.exits import Exit
from llm_router.config.load import Settings
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


def test_a_port_that_stays_taken_ends_the_router_with_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """systemd does not start it again for that: see the unit."""
    monkeypatch.setattr(serve, "PORT_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        values = {"listen": {"port": port}, "admin_socket": str(tmp_path / "admin.sock")}
        settings = Settings(Config.model_validate(values), {}, (), tmp_path, tmp_path, tmp_path)
        assert serve.serve(settings) == Exit.PORT_TAKEN
    assert f"cannot listen: 127.0.0.1 port {port}: Address already in use for 0.05 s" in caplog.text
    assert f"ss -ltnp 'sport = :{port}'" in caplog.text
    assert "set listen.port" in caplog.text


def test_an_address_that_is_not_there_yet_is_tried_again_by_systemd(tmp_path: Path) -> None:
    values = {"listen": {"host": "192.0.2.1", "port": 1}, "allow_open": True}
    settings = Settings(Config.model_validate(values), {}, (), tmp_path, tmp_path, tmp_path)
    assert serve.serve(settings) == Exit.NOT_DONE


def test_a_port_that_becomes_free_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    config = Config.model_validate({"listen": {"port": other.getsockname()[1]}})

    class Free(logging.Handler):
        """Closes the other socket when the router says that it waits."""

        def emit(self, record: logging.LogRecord) -> None:
            threading.Thread(target=other.close).start()

    free = Free()
    serve.log.addHandler(free)
    try:
        with serve._listen_patiently(config) as listener:
            assert listener.getsockname()[1] == config.listen.port
    finally:
        serve.log.removeHandler(free)
        other.close()
