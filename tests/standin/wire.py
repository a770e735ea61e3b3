"""HTTP/1.1 on a blocking socket, as far as an engine needs it; one thread a connection."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
_BETWEEN_WRITES = 0.0005
"""Seconds, so that the reader gets each write by itself."""


def _json(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


class Gone(Exception):
    """The client has closed its connection."""


class Stopping(Exception):
    """The engine was told to end, and this request shall notice."""


class Stop:
    """A flag that can be waited for together with sockets."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self.at: float | None = None
        # a signal that comes just before the wait would not end it, and its handler would not run
        self._signalled, waker = os.pipe()
        for end in (self._signalled, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker)

    def set(self) -> None:
        if self.at is None:
            self.at = time.monotonic()
            os.write(self._writer, b"x")

    def wait(self, seconds: float | None) -> bool:
        """Whether it was set within so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self._signalled, select.POLLIN)
        while self.at is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not poll.poll(None if left is None else left * 1000):
                return False
            with suppress(BlockingIOError):
                os.read(self._signalled, 64)
        return True


@dataclass
class Request:
    """One request; ``query`` has the last value of each key."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body. Raises `ValueError`."""
        return json.loads(self.body)


@dataclass
class Connection:
    """``split``: bytes in each chunk and write of a stream; 0 sends pieces as they come."""

    socket: socket.socket
    stop: Stop
    split: int = 0
    heeds_stop: bool = False
    """Whether waiting raises `Stopping`."""
    _received: bytes = field(default=b"", init=False)

    def request(self) -> Request | None:
        """The next request; None when there is none any more."""
        try:
            while b"\r\n\r\n" not in self._received:
                self._receive()
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            length = int(headers.get("content-length", 0))
            while len(self._received) < length:
                self._receive()
        except Gone:
            return None
        body, self._received = self._received[:length], self._received[length:]
        method, target, _ = first.split(" ", 2)
        parts = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        return Request(method, parts.path, query, headers, body)

    def wait(self, seconds: float | None) -> None:
        """Sleep. Raises `Gone` at once when the client leaves, `Stopping` where that is heeded."""
        until = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | select.POLLRDHUP)
        if self.heeds_stop:
            poll.register(self.stop.fd, select.POLLIN)
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready = dict(poll.poll(None if left is None else left * 1000))
            if self.stop.fd in ready:
                raise Stopping
            if self.socket.fileno() in ready:
                self._receive()
            elif until is not None and time.monotonic() >= until:
                return

    def answer(self, status: int, body: Any = b"", content_type: str = "application/json") -> None:
        """A whole answer; anything but bytes goes out as JSON."""
        data = body if isinstance(body, bytes) else _json(body)
        head = [f"HTTP/1.1 {status} {_REASONS.get(status, 'X')}", f"Content-Length: {len(data)}"]
        if data:
            head.append(f"Content-Type: {content_type}")
        self._send("\r\n".join([*head, "", ""]).encode() + data)

    def begin_stream(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        """The head of a stream."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
        self._send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")

    def piece(self, data: bytes) -> None:
        """A piece of the stream; with ``split`` the borders fall inside events and characters."""
        size = self.split or len(data)
        for start in range(0, len(data), size):
            part = data[start : start + size]
            self._send(b"%x\r\n%b\r\n" % (len(part), part))
            if self.split:
                time.sleep(_BETWEEN_WRITES)

    def end_stream(self) -> None:
        """The stream's orderly end, as HTTP has it."""
        self._send(b"0\r\n\r\n")

    def close(self) -> None:
        """Closed for both sides, whatever was still to come."""
        self.socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def _receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._received += data
