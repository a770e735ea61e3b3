"""A client's connection: an answer by `Line` on the wire, and what it is told of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from llm_router.http_protocol import LINE, LONGEST_HEAD, Line, bounded

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]
TEXT = [(b"content-type", b"text/plain")]


class App:
    """Answers by the request's path."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: list[bytes | None] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        line: Line = scope[LINE]
        line.attach()
        self.bodies.append(line.body())
        if scope["path"] == "/whole":
            line.start(200, TEXT, b"whole")
            return
        if scope["path"] == "/gone":
            gone = asyncio.Event()
            line.on_gone = gone.set
            line.start(200, TEXT)
            line.write(b"first")
            await gone.wait()
            self.seen.append("gone")
            return
        if scope["path"] == "/full":
            full, room = asyncio.Event(), asyncio.Event()
            line.on_full, line.on_room = full.set, room.set
            line.start(200, TEXT)
            while not full.is_set():
                line.write(b"x" * 65536)
            self.seen.append("full")
            await room.wait()
            self.seen.append("room")
            line.end(b"!")
            return
        announced = [(b"content-length", b"9")] if scope["path"] == "/short" else []
        line.start(200, [*TEXT, *announced])
        line.write(b"one ")
        await asyncio.sleep(0)
        line.write(b"")
        line.end(b"two")


def talk(talk: Talk, app: App | None = None) -> Any:
    async def main() -> Any:
        config = uvicorn.Config(
            app or App(), http=bounded(5.0), ws="none", lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[config.bind_socket()])
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(talk(reader, writer), 30)
        finally:
            writer.close()
            await server.shutdown()

    return asyncio.run(main())


def asked(*requests: str) -> Talk:
    """Send these, all at once; read to the end."""

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write("".join(requests).encode())
        return await reader.read()

    return ask


def test_an_answer_is_chunked_for_http_1_1_and_ends_with_the_connection_for_1_0() -> None:
    new = talk(asked("GET /two HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    assert new.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ntransfer-encoding: chunked\r\n" in new
    assert new.endswith(b"\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
    old = talk(asked("GET /two HTTP/1.0\r\n\r\n"))
    assert b"transfer-encoding" not in old
    assert b"\r\nconnection: close\r\n" in old
    assert old.endswith(b"\r\n\r\none two")


def test_an_answer_to_head_has_no_body() -> None:
    for path in ("/two", "/whole"):
        got = talk(asked(f"HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        assert got.endswith(b"\r\n\r\n")
        assert b"HTTP/1.1 200" in got


def test_requests_that_come_together_are_answered_in_their_order() -> None:
    app = App()
    first = "POST /two HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab"
    second = "GET /whole HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    got = talk(asked(first, second), app)
    assert got.index(b"one ") < got.index(b"whole")
    assert b"content-length: 5\r\n" in got
    assert app.bodies == [b"ab", b""]


def test_half_of_what_was_announced_does_not_look_whole() -> None:
    got = talk(asked("GET /short HTTP/1.1\r\nhost: x\r\n\r\n"))
    assert b"content-length: 9\r\n" in got
    assert got.endswith(b"\r\n\r\none two")  # and the connection was closed


def test_a_head_that_is_too_long_is_not_read_to_its_end() -> None:
    async def long(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * (LONGEST_HEAD - 100))
        await asyncio.sleep(0.1)
        writer.write(b"y" * 101)
        return await reader.read()

    got = talk(long)
    assert got.startswith(b"HTTP/1.1 400")
    assert got.endswith(b"The head of the request is too long.")


def test_who_leaves_is_noticed_at_once() -> None:
    app = App()

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /gone HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"first")
        writer.transport.abort()
        while not app.seen:
            await asyncio.sleep(0.01)

    talk(leave, app)
    assert app.seen == ["gone"]


def test_who_takes_no_more_is_told_and_who_takes_more_again_too() -> None:
    app = App()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET /full HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while not app.seen:
            await asyncio.sleep(0.01)
        return await reader.read()

    assert talk(slowly, app).endswith(b"\r\n1\r\n!\r\n0\r\n\r\n")
    assert app.seen == ["full", "room"]
