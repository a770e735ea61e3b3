"""The gateway's configuration in a real HAProxy, against clients without a key.

`tools/bootstrap haproxy` installs HAProxy. Without it these tests are skipped, and in CI they fail;
tests/fleet has HAProxy on hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/gateway"
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
KEY = "gateway-test-key-0123"
FEW = 8
"""Connections of a source without a key."""

pytestmark = pytest.mark.skipif(
    not Path(HAPROXY).exists() and os.environ.get("CI") != "true",
    reason="HAProxy is not installed (tools/bootstrap haproxy)",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Gateway:
    def __init__(self, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.port, self.log, self.process = port, log, process

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, request: bytes) -> bytes:
        """The whole answer to one request; nothing where the connection is closed without one."""
        with self.connect() as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(65536):
                    answer += part
            return answer

    def rss(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


def head(path: str = "/v1/models", key: str = "", more: str = "") -> bytes:
    given = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{given}{more}\r\n".encode()


def chat(model: str) -> bytes:
    body = json.dumps({"model": model}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The role's files, as Ansible makes them, in a directory of their own."""
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "templates").symlink_to(ROLE / "templates")
    play = [
        {
            "hosts": "llm_servers",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [str(ROLE / f"{part}/main.yml") for part in ("defaults", "vars")],
            "tasks": [
                {
                    "ansible.builtin.copy": {
                        "content": "{{ __gateway_contents | combine({'files': __gateway_files, "
                        "'haproxy.cfg': lookup('template', 'haproxy.cfg.j2')}) "
                        "| to_json }}",
                        "dest": str(directory / "all.json"),
                        "mode": "0600",
                    }
                }
            ],
        }
    ]
    (directory / "play.yml").write_text(json.dumps(play), encoding="utf-8")
    host = {
        "ansible_python_interpreter": sys.executable,
        "llm_router_models": {"tiny": {}},
        "llm_router_api_keys": [{"name": "test", "key": KEY}],
        "gateway_address": "127.0.0.1",
        "llm_router_port": free_port(),
    }
    given = {
        "role_path": str(ROLE),
        "gateway_max_connections_without_key": FEW,
        "gateway_port": "PORT",
    }
    inventory = {"llm_servers": {"hosts": {"gpu1": host}}}
    (directory / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", "hosts.json", "play.yml", "-e", json.dumps(given)),
        ],
        cwd=directory,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    contents = json.loads((directory / "all.json").read_text(encoding="utf-8"))
    place = contents.pop("files")
    for name, content in contents.items():
        (directory / name).write_text(
            (content or "").replace(place, str(directory)), encoding="utf-8"
        )
    return directory


@pytest.fixture
def gateway(configuration: Path, tmp_path: Path) -> Iterator[Gateway]:
    port = free_port()
    lines = (configuration / "haproxy.cfg").read_text(encoding="utf-8").splitlines()
    # as this user, in the foreground
    away = ("    user ", "    group ", "    chroot ", "    stats socket ")
    own = "\n".join(line for line in lines if not line.startswith(away))
    own = own.replace(":PORT", f":{port}").replace(
        "log stdout format raw daemon", "log stdout format raw local0"
    )
    (tmp_path / "haproxy.cfg").write_text(own + "\n", encoding="utf-8")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(tmp_path / "haproxy.cfg")],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Gateway(port, log, process)
    finally:
        process.kill()
        process.wait()


def test_a_source_without_a_key_has_few_connections_and_fills_little_memory(
    gateway: Gateway,
) -> None:
    before = gateway.rss()
    piece = b"x" * (1 << 20)
    with contextlib.ExitStack() as held:
        for number in range(3 * FEW):
            # the ones that are too many are reset
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client = held.enter_context(gateway.connect())
                client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Fill: ")
                for _ in range(8):
                    client.sendall(piece)
            assert gateway.rss() - before < (FEW + 4) * 9_000_000, number


def test_who_has_a_key_is_served_beside_them(gateway: Gateway) -> None:
    assert gateway.ask(head(key=KEY)).startswith(b"HTTP/1.1 200 ")
    with contextlib.ExitStack() as held:
        for _ in range(3 * FEW):
            held.enter_context(gateway.connect()).sendall(b"GET ")
        assert gateway.ask(head(key=KEY)).startswith(b"HTTP/1.1 200 ")


def test_a_slow_head_is_ended(gateway: Gateway) -> None:
    began = time.monotonic()
    with gateway.connect() as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\n")
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("more", "path"),
    [("X-Fill: " + "x" * 40_000 + "\r\n", "/v1/models"), ("", "/v1/models?" + "x" * 9_000)],
)
@pytest.mark.parametrize("key", ["", KEY])
def test_a_large_head_is_refused_whoever_sends_it(
    gateway: Gateway, more: str, path: str, key: str
) -> None:
    answer = gateway.ask(head(path, key, more))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "headers_too_large"' in answer


def test_a_refused_key_closes_the_connection(gateway: Gateway) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"
    answer = gateway.ask(request + request)
    assert answer.count(b"HTTP/1.1 401 ") == 1


def test_what_a_client_chose_adds_no_line_and_no_field_to_the_log(gateway: Gateway) -> None:
    lied = '127.0.0.1 200 b/s model:"x'
    for model in (f"tiny\n{lied}", f'tiny" model:"other {lied}', "tiny\r\x1b[31m"):
        assert b'"code": "model_not_found"' in gateway.ask(chat(model))
    deadline = time.monotonic() + 10
    while True:
        lines = [line for line in gateway.log.read_bytes().splitlines() if b" model:" in line]
        if len(lines) >= 3:
            break
        assert time.monotonic() < deadline, gateway.log.read_text()
        time.sleep(0.05)
    assert len(lines) == 3
    for line in lines:
        assert line.isascii()
        assert b"\x1b" not in line
        # the last field is one JSON string
        text = line[line.index(b' model:"') + len(b" model:") :].decode()
        assert json.loads(text).startswith("tiny")
    assert not any(line.startswith(lied.encode()) for line in gateway.log.read_bytes().splitlines())
