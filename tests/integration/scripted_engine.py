"""An engine that answers what a test wrote: raw bytes, whatever they are.

As a program it is the engine; `Scripted` is the test's side of it. One request at a time.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conftest import Router

HELD = 20.0
"""Seconds until it goes on by itself with an answer that is held."""
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Scripted:
    """What the engine of the model ``name`` shall answer, and what it was asked."""

    def __init__(self, router: Router, name: str = "a") -> None:
        self._dir = router.dir / f"scripted-{name}"
        self._dir.mkdir()
        self._router, self._name = router, name
        self.port = 0

    def entry(self, **more: Any) -> dict[str, Any]:
        """Its entry of models.yml."""
        from .conftest import free_port

        self.port = free_port()
        names = {self._name, more.get("model_name", self._name)}
        command = [sys.executable, "-S", "-E", __file__, str(self.port), str(self._dir), *names]
        model = {"backend": "command", "port": self.port, "command": command, "warm_up": False}
        return {**model, **more}

    def answers(
        self, *pieces: bytes, close: bool = False, pause: float = 0.0, held: bool = False
    ) -> None:
        """From now on it sends these pieces, ``pause`` seconds apart; then it may close.

        ``held``: it sends each piece only after `go_on` was called for the one before.
        """
        said = {
            "pieces": [base64.b64encode(piece).decode() for piece in pieces],
            "close": close,
            "pause": pause,
            "held": held,
        }
        path = self._dir / "answer.new"
        path.write_text(json.dumps(said))
        path.rename(self._dir / "answer")

    def go_on(self) -> None:
        """It sends the next piece of an answer that is held."""
        with (self._dir / "go").open("ab") as file:
            file.write(b".")

    def sent_at(self) -> list[float]:
        """When it began to send each piece of its last held answer, by `time.monotonic`."""
        return [float(line) for line in (self._dir / "sent").read_text().splitlines()]

    def connections(self) -> int:
        """How many were made to it."""
        path = self._dir / "connections"
        return path.stat().st_size if path.exists() else 0

    def forget_connections(self) -> None:
        """It resets each connection of now as soon as a request comes over it."""
        (self._dir / "forgotten").write_text(str(time.monotonic()))

    def whole(self, status: str, *fields: str, body: bytes = b"") -> None:
        """It answers with a body of a known length."""
        head = [f"HTTP/1.1 {status}", *fields, f"content-length: {len(body)}", "", ""]
        self.answers("\r\n".join(head).encode("latin-1") + body)

    def stream(self, *pieces: bytes, kind: str = "text/event-stream", pause: float = 0.0) -> None:
        """It answers with a body in chunks, each piece one."""
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        self.answers(head.encode(), *chunks, b"0\r\n\r\n", pause=pause)

    def asked(self) -> list[tuple[str, list[tuple[str, str]], bytes]]:
        """Every request but the router's own probes: its first line, its fields, its body."""
        found = []
        path = self._dir / "requests"
        for line in path.read_text().splitlines() if path.exists() else ():
            head, _, body = base64.b64decode(line).partition(b"\r\n\r\n")
            first, *rest = head.decode("latin-1").split("\r\n")
            fields = [(name, value.strip()) for name, _, value in (f.partition(":") for f in rest)]
            found.append((first, fields, body))
        return found


def serve(port: int, directory: Path, names: list[str]) -> None:
    """The engine itself."""
    data = [{"id": name, "object": "model"} for name in names]
    models = json.dumps({"object": "list", "data": data}).encode()
    probe = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    probe %= len(models), models

    def talk(connection: socket.socket) -> None:
        made = time.monotonic()
        with (directory / "connections").open("ab") as file:
            file.write(b".")
        forgotten = directory / "forgotten"
        got = b""
        while True:
            while b"\r\n\r\n" not in got:
                data = connection.recv(65536)
                if not data:
                    return
                got += data
            if forgotten.exists() and made < float(forgotten.read_text()):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                return
            head, _, got = got.partition(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
            while len(got) < length:
                got += connection.recv(65536)
            body, got = got[:length], got[length:]
            if head.startswith(b"GET /v1/models "):
                connection.sendall(probe)
                continue
            with (directory / "requests").open("ab") as file:
                file.write(base64.b64encode(head + b"\r\n\r\n" + body) + b"\n")
            said = json.loads((directory / "answer").read_text())
            go, sent = directory / "go", directory / "sent"
            go.write_bytes(b"")
            sent.write_bytes(b"")
            for number, piece in enumerate(said["pieces"], 1):
                if said["held"]:
                    with sent.open("a") as file:
                        file.write(f"{time.monotonic()}\n")
                connection.sendall(base64.b64decode(piece))
                time.sleep(said["pause"])
                held = said["held"] and number < len(said["pieces"])
                until = time.monotonic() + HELD if held else 0.0
                while go.stat().st_size < number and time.monotonic() < until:
                    time.sleep(0.0005)
            if said["close"]:
                connection.close()
                return

    def guarded(connection: socket.socket) -> None:
        with suppress(OSError):
            talk(connection)

    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
