"""What a survey asks of engines that run: each answer has a deadline and a size."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from llm_router.discovery import survey as module

Talk = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def engine(talk: Talk) -> Iterator[int]:
    """The port of an engine that reads a request and then does as ``talk`` does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)
        assert not thread.is_alive()


def trickles(first: bytes, part: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(first)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            connection.sendall(part)
            time.sleep(0.01)

    return talk


@pytest.mark.parametrize(
    "talk",
    [
        trickles(OK + b"content-length: 100000\r\n\r\n", b" "),
        trickles(OK, b"x"),
        trickles(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        trickles(OK + b"\r\n", b" " * 100_000),
    ],
    ids=["body", "head", "provisional", "endless"],
)
def test_an_engine_that_never_finishes_holds_up_no_survey(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK_TIMEOUT", 0.2)
    with engine(talk) as port:
        began = time.monotonic()
        assert module._asked(port, "vllm") == ("", False)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ([{"id": "m"}], "m"),
        ([{"id": "x" * 1000}], ""),
        ([{"id": ["m"]}], ""),
        ([], ""),
        ("DEEP", ""),
    ],
)
def test_what_is_no_name_of_a_model_is_not_taken(data: object, name: str) -> None:
    body = json.dumps({"data": data}).encode().replace(b'"DEEP"', b"[" * 200_000)
    head = OK + b"content-length: %d\r\n\r\n" % len(body)
    with engine(lambda connection: connection.sendall(head + body)) as port:
        assert module._asked(port, "vllm") == (name, False)
