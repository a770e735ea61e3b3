"""A client's connection: an answer by `Line` on the wire, and what it is told of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from llm_router.http_protocol import (
    HEALTH_RESERVE,
    LINE,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_PIPELINED,
    MAX_TRAILERS,
    Bounds,
    Line,
    bounded,
)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]
TEXT = [(b"content-type", b"text/plain")]


class App:
    """Answers by the request's path."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: list[bytes | bytearray | None] = []

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


def talk(talk: Talk, app: Any = None, connections: int = 100) -> Any:
    async def main() -> Any:
        config = uvicorn.Config(
            app or App(),
            port=0,
            http=bounded(Bounds(5.0, connections)),
            ws="none",
            lifespan="off",
            log_config=None,
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


def test_a_client_that_left_before_its_early_answer_breaks_nothing() -> None:
    broken: list[BaseException] = []

    class Early(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            except OSError as error:
                broken.append(error)
            self.seen.append("over")

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /whole HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
        writer.close()  # in the same turn, so that what is answered finds nobody
        while not app.seen:
            await asyncio.sleep(0)

    app = Early()
    talk(leave, app)
    assert broken == []


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
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HEAD - 100))
        await asyncio.sleep(0.1)
        writer.write(b"y" * 101)
        return await reader.read()

    got = talk(long)
    assert got.startswith(b"HTTP/1.1 431")
    assert b"The head of the request is larger than 32768 bytes." in got


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


class Reading:
    """Reads each request's body, and answers with its size; remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes | bytearray, dict[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        line: Line = scope[LINE]
        line.attach()
        whole = line.body()
        body, more = (bytearray(), True) if whole is None else (whole, False)
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.seen.append((scope["method"], scope["path"], body, dict(scope["headers"])))
        line.start(200, TEXT, b"%d" % len(body))


def test_trailers_are_dropped_and_never_headers() -> None:
    app = Reading()
    head = "POST /one HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\n"
    head += "transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    body = "3\r\nabc\r\n0\r\nauthorization: Bearer right\r\nx-new: 1\r\n\r\n"
    assert talk(asked(head, body), app).startswith(b"HTTP/1.1 200")
    [(_, _, got, headers)] = app.seen
    assert got == b"abc"
    assert headers[b"authorization"] == b"Bearer wrong"
    assert b"x-new" not in headers


@pytest.mark.parametrize(
    "rest",
    [
        b"0\r\n" + b"x: yyyyyyyyyy\r\n" * MAX_TRAILERS,
        b"0\r\nx: " + b"y" * 2 * 1024 * 1024,
        b"1;" + b"y" * 2 * 1024 * 1024,
    ],
    ids=["many trailers", "a trailer without an end", "a chunk extension without an end"],
)
def test_what_a_chunked_body_has_beside_its_data_is_bounded(rest: bytes) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"3\r\nabc\r\n")
        for at in range(0, len(rest), 65536):
            writer.write(rest[at : at + 65536])
        return await reader.read()

    app = Reading()
    got = talk(flood, app)
    assert got.startswith(b"HTTP/1.1 400")
    assert b"trailers_too_large" in got
    assert got.count(b"HTTP/1.1") == 1
    assert app.seen == []


def test_a_body_in_small_chunks_is_not_taken_for_trailers() -> None:
    app = Reading()
    head = "POST /one HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    head += "connection: close\r\n\r\n"
    got = talk(asked(head, "1\r\nx\r\n" * 100_000, "0\r\n\r\n"), app)
    assert got.endswith(b"100000")


def test_a_head_has_so_many_fields_at_most() -> None:
    def request(fields: int) -> str:
        return "GET /two HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + "".join(
            f"x-{number}: y\r\n" for number in range(fields - 2)
        )

    assert talk(asked(request(MAX_FIELDS) + "\r\n")).startswith(b"HTTP/1.1 200")
    got = talk(asked(request(MAX_FIELDS + 1) + "\r\n"))
    assert got.startswith(b"HTTP/1.1 431")
    assert b"more than 100 header fields" in got


@pytest.mark.parametrize("hosts", ["", "host: a\r\nhost: b\r\n"], ids=["none", "two"])
def test_a_request_without_one_host_is_refused(hosts: str) -> None:
    got = talk(asked(f"GET /two HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"))
    assert got.startswith(b"HTTP/1.1 400")
    assert b"Host" in got


UPGRADES = [
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    "Connection: Upgrade\r\nUpgrade: websocket\r\n",
]
WITHIN = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("writes", [1, 2, 3])
@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket"])
def test_a_request_that_offers_an_upgrade_is_served_with_its_body(
    upgrade: str, writes: int, chunked: bool
) -> None:
    app = Reading()
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(WITHIN)}"
    head = f"POST /one HTTP/1.1\r\nhost: x\r\n{upgrade}{framing}\r\n\r\n".encode()
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(WITHIN), WITHIN) if chunked else WITHIN
    pieces = {1: [head + body], 2: [head, body], 3: [head[:-30], head[-30:] + body[:9], body[9:]]}
    second = b"GET /next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for piece in pieces[writes]:
            writer.write(piece)
            await asyncio.sleep(0.05)
        got = await reader.readuntil(b"\r\n\r\n%d" % len(WITHIN))
        writer.write(second)
        return got + await reader.read()

    got = talk(send, app)
    assert got.count(b"HTTP/1.1 200") == got.count(b"HTTP/1.1") == 2
    assert [(method, path, body) for method, path, body, _ in app.seen] == [
        ("POST", "/one", WITHIN),
        ("GET", "/next", b""),
    ]


def test_an_upgrade_without_a_body_is_an_ordinary_request() -> None:
    got = talk(
        asked(f"GET /whole HTTP/1.1\r\nhost: x\r\n{UPGRADES[1]}\r\n", "GET /two HTTP/1.0\r\n\r\n")
    )
    assert got.count(b"HTTP/1.1 200") == 2
    assert talk(asked("CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n")).startswith(b"HTTP/1.1 400")


def test_an_answer_before_the_body_has_come_ends_the_connection() -> None:
    """And the client can read it, though it still sends."""
    app = App()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST /whole HTTP/1.1\r\nhost: x\r\ncontent-length: 600000\r\n\r\n")
        for _ in range(5):
            writer.write(b"GET /two HTTP/1.1\r\nhost: x\r\n\r\n" + b"x" * 100_000)
            await asyncio.sleep(0.02)
        return await reader.read()

    got = talk(early, app)
    assert got.startswith(b"HTTP/1.1 200")
    assert b"\r\nconnection: close\r\n" in got
    assert got.endswith(b"whole")
    assert app.bodies == [None]


def test_only_so_many_requests_may_be_sent_ahead() -> None:
    app = App()
    got = talk(asked("GET /two HTTP/1.1\r\nhost: x\r\n\r\n" * 5000), app)
    assert got.count(b"HTTP/1.1 200 OK") == MAX_PIPELINED + 1 == len(app.bodies)
    assert got.count(b"HTTP/1.1") == MAX_PIPELINED + 1
    assert got.endswith(b"0\r\n\r\n")


def test_what_is_broken_after_a_whole_request_does_not_spoil_its_answer() -> None:
    got = talk(asked("GET /two HTTP/1.1\r\nhost: x\r\n\r\n", "\0\0\0 nonsense\r\n\r\n"))
    assert got.count(b"HTTP/1.1") == 1
    assert got.endswith(b"3\r\ntwo\r\n0\r\n\r\n")


def test_connections_are_bounded_and_health_is_told_all_the_same() -> None:
    async def many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        writer.write(b"GET /two HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        # one connection is open, and one is allowed; many more that send nothing change nothing
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(HEALTH_RESERVE + 9)]
        for path, status in (("/two", b"503"), ("/health", b"200")):
            other, out = await asyncio.open_connection("127.0.0.1", port)
            out.write(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
            got = await other.read()
            out.close()
            assert got.startswith(b"HTTP/1.1 " + status)
            assert (b"\r\nretry-after: 1\r\n" in got) == (status == b"503")
        for other, _ in idle[:9]:
            assert await other.read() == b""
        # and the first one goes on
        writer.write(b"GET /two HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        for _, out in idle:
            out.close()
        # with room again the next one is served
        while True:
            other, out = await asyncio.open_connection("127.0.0.1", port)
            out.write(b"GET /two HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            got = await other.read()
            out.close()
            if got.startswith(b"HTTP/1.1 200"):
                return

    talk(many, connections=1)
