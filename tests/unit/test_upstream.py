"""The HTTP that engines are asked by, against a server that says exactly what it is told to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from llm_router.api import upstream
from llm_router.api.exchange import Call
from llm_router.api.upstream import BrokenOff, Engines, Silent, TooLarge, UpstreamError

POST = Call("POST", "/v1/x?y=%2e", {"content-type": "application/json"}, (b"{}",))
GET = Call("GET", "/health", {}, ())
OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 2\r\n\r\nhi"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\nX-One: 1\r\n\r\n"


class Server:
    """Answers each request with the next of ``says``; None closes the connection instead."""

    def __init__(self, *says: bytes | None, close: bool = False) -> None:
        self.says = list(says)
        self.close = close
        self.got: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while self.says:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.got.append(head + await reader.readexactly(int(length or 0)))
                says = self.says.pop(0)
                if says is None:
                    break
                writer.write(says)
                await writer.drain()
                if self.close:
                    break
            else:
                await reader.read()
        writer.close()


def run(server: Server, use: Callable[[Engines, str], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening, Engines() as engines:
            return await asyncio.wait_for(use(engines, server.url), 30)

    return asyncio.run(main())


async def ask(engines: Engines, url: str, call: Call = POST, patience: float = 10.0) -> bytes:
    answer = await engines.ask(url, call, patience)
    try:
        return await answer.read()
    finally:
        answer.close()


def test_a_request_is_as_it_was_asked_and_its_connection_is_used_again() -> None:
    server = Server(WHOLE, WHOLE, WHOLE)

    async def three(engines: Engines, url: str) -> list[bytes]:
        return [await ask(engines, url), await ask(engines, url, GET), await ask(engines, url)]

    assert run(server, three) == [b"hi"] * 3
    assert server.connections == 1
    head, _, body = server.got[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?y=%2e HTTP/1.1\r\n")
    lines = set(head.split(b"\r\n"))
    assert lines >= {b"content-length: 2", b"accept-encoding: identity", b"accept: */*"}
    assert b"host: " + server.url.encode()[7:] in lines
    assert body == b"{}"
    assert b"content-length" not in server.got[1]


def test_a_large_request_is_sent_in_pieces_and_others_have_their_turn() -> None:
    parts = (b"a" * 3_000_000, memoryview(bytearray(b"b" * 3_000_000)), b"c")
    server = Server(WHOLE, WHOLE)
    turns = 0

    async def large(engines: Engines, url: str) -> tuple[bytes, bytes]:
        nonlocal turns
        asking = asyncio.create_task(ask(engines, url, Call("POST", "/", {}, parts)))
        while not asking.done():
            turns += 1
            await asyncio.sleep(0)
        return await asking, await ask(engines, url)

    assert run(server, large) == (b"hi", b"hi")
    assert server.got[0].partition(b"\r\n\r\n")[2] == b"".join(parts)
    assert turns > 6_000_000 / upstream.SENT_AT_ONCE
    assert server.connections == 1


def test_an_answer_before_the_request_is_taken_is_read_and_the_connection_is_not_kept() -> None:
    call = Call("POST", "/", {}, (bytes(50_000_000),))
    refuses = OK.replace(b"200 OK", b"413 Too Large") + b"content-length: 2\r\n\r\nno"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refuses)
        with suppress(ConnectionError):
            await writer.drain()
            await closed.wait()
        writer.close()

    async def main() -> tuple[bytes, bool]:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening, Engines() as engines:
            data = await asyncio.wait_for(ask(engines, url, call), 30)
            kept = any(engines._kept.values())
            closed.set()
        return data, kept

    closed = asyncio.Event()
    assert asyncio.run(main()) == (b"no", False)


def test_an_answer_ends_as_http_says() -> None:
    cases: list[tuple[bytes, bytes, bool]] = [
        (CHUNKED + b"2\r\nhi\r\n4\r\n you\r\n0\r\n\r\n", b"hi you", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, b"hi", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", False),
        (OK + b"\r\nuntil it closes", b"until it closes", True),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old", True),
    ]
    for says, body, close in cases:
        assert run(Server(says, close=close), ask) == body


def test_an_answer_to_head_has_no_body() -> None:
    async def head(engines: Engines, url: str) -> tuple[bytes, str]:
        answer = await engines.ask(url, Call("HEAD", "/", {}, ()), 10.0)
        body = await answer.read()
        answer.close()
        return body, answer.headers["content-length"]

    assert run(Server(OK + b"content-length: 500\r\n\r\n"), head) == (b"", "500")


@pytest.mark.parametrize(
    "says",
    [
        None,
        b"SSH-2.0-OpenSSH\r\n",
        OK + b"content-length: 5\r\n\r\nhi",
        CHUNKED + b"5\r\nhi",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
    ],
)
def test_what_is_no_whole_answer_is_an_error(says: bytes | None) -> None:
    with pytest.raises(UpstreamError) as caught:
        run(Server(says, close=True), ask)
    assert not isinstance(caught.value, Silent)


def test_nobody_there() -> None:
    async def nobody(engines: Engines, url: str) -> bytes:
        return await ask(engines, "http://127.0.0.1:1")

    with pytest.raises(UpstreamError, match="ConnectionRefusedError"):
        run(Server(), nobody)


@pytest.mark.parametrize("says", [b"", CHUNKED, CHUNKED + b"2\r\nhi\r\n"])
def test_one_that_falls_silent_is_not_waited_for(says: bytes) -> None:
    async def patient(engines: Engines, url: str) -> bytes:
        return await ask(engines, url, patience=0.2)

    with pytest.raises(Silent, match=r"0\.2 s"):
        run(Server(says), patient)


def test_a_pause_is_no_silence_and_loses_nothing() -> None:
    body = bytes(range(256)) * 4096

    async def slowly(engines: Engines, url: str) -> bytes:
        answer = await engines.ask(url, POST, 0.2)
        got: list[bytes] = []

        def take(data: bytes) -> None:
            if not got:
                answer.pause()
                asyncio.get_running_loop().call_later(0.5, answer.resume)
            got.append(data)

        answer.deliver(take)
        await answer.delivered()
        answer.close()
        return b"".join(got)

    says = OK + b"content-length: %d\r\n\r\n" % len(body) + body
    assert run(Server(says), slowly) == body


def test_what_is_not_taken_yet_does_not_pile_up() -> None:
    body = b"x" * 8_000_000

    async def late(engines: Engines, url: str) -> tuple[int, int]:
        answer = await engines.ask(url, POST, 10.0)
        await asyncio.sleep(0.3)
        waiting = sum(map(len, answer._untaken))
        whole = await answer.read()
        answer.close()
        return waiting, len(whole)

    waiting, size = run(Server(OK + b"content-length: 8000000\r\n\r\n" + body), late)
    assert size == len(body)
    assert waiting < 4 * upstream.MOST_UNTAKEN


def test_one_that_is_not_wanted_any_more_is_closed() -> None:
    server = Server(CHUNKED + b"2\r\nhi\r\n", WHOLE)

    async def two(engines: Engines, url: str) -> bytes:
        answer = await engines.ask(url, POST, 10.0)
        answer.close()
        return await ask(engines, url)

    assert run(server, two) == b"hi"
    assert server.connections == 2


def test_a_fault_in_who_takes_is_told_where_the_answer_is_awaited() -> None:
    def broken(_: bytes) -> None:
        raise ZeroDivisionError

    async def deliver(engines: Engines, url: str) -> None:
        answer = await engines.ask(url, POST, 10.0)
        try:
            answer.deliver(broken)
            await answer.delivered()
        finally:
            answer.close()

    for says in (WHOLE, CHUNKED + b"2\r\nhi\r\n"):
        with pytest.raises(ZeroDivisionError):
            run(Server(says), deliver)


def test_a_connection_is_not_used_when_its_engine_may_close_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "KEPT_FOR", 0.1)
    server = Server(WHOLE, WHOLE)

    async def two(engines: Engines, url: str) -> list[bytes]:
        first = await ask(engines, url)
        await asyncio.sleep(0.3)
        return [first, await ask(engines, url)]

    assert run(server, two) == [b"hi", b"hi"]
    assert server.connections == 2


def test_a_server_that_wants_no_second_request_gets_none() -> None:
    server = Server(OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi", WHOLE)

    async def two(engines: Engines, url: str) -> list[bytes]:
        return [await ask(engines, url), await ask(engines, url)]

    assert run(server, two) == [b"hi", b"hi"]
    assert server.connections == 2


def test_whoever_has_enough_of_the_first_piece_is_sent_no_more() -> None:
    class Connection:
        paused = False

        def pause(self) -> None:
            self.paused = True

        def resume(self) -> None:
            self.paused = False

    connection: Any = Connection()
    answer = upstream.Answer(connection)
    answer.came(b"x")
    answer.deliver(lambda _: answer.pause())
    assert connection.paused


class Dripping:
    """Answers one request with ``first``, and then with ``again``, ``pause`` seconds apart."""

    def __init__(self, first: bytes, again: bytes, pause: float = 0.0) -> None:
        self.first, self.again, self.pause = first, again, pause

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.first)
            while True:
                writer.write(self.again)
                await writer.drain()
                await asyncio.sleep(self.pause)
        writer.close()


INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
ENDLESS = [
    (OK, b"x-more: 1\r\n"),
    (OK + b"x-long: ", b"y"),
    (b"", INTERIM),
    (CHUNKED + b"2\r\nhi\r\n0\r\n", b"x-trailer: 1\r\n"),
    (CHUNKED + b"2\r\nhi\r\n2;", b"y"),
]


@pytest.mark.parametrize(("first", "again"), ENDLESS)
def test_a_head_or_a_trailer_that_goes_on_is_a_silence(first: bytes, again: bytes) -> None:
    async def patient(engines: Engines, url: str) -> bytes:
        return await asyncio.wait_for(ask(engines, url, patience=0.3), 5)

    server: Any = Dripping(first, again, 0.02)
    with pytest.raises(Silent, match=r"0\.3 s"):
        run(server, patient)


@pytest.mark.parametrize(("first", "again"), ENDLESS)
def test_a_head_or_a_trailer_is_bounded(first: bytes, again: bytes) -> None:
    async def soon(engines: Engines, url: str) -> bytes:
        return await asyncio.wait_for(ask(engines, url), 5)

    server: Any = Dripping(first, again * 1000, 0.001)
    with pytest.raises(UpstreamError, match="65536 bytes"):
        run(server, soon)


def test_lengths_of_chunks_that_come_alone_are_no_trailer() -> None:
    pieces = 64 * 1024 // 3 + 100

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def main() -> int:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening, Engines() as engines:
            connection = await engines._connect(url, None)
            answer = connection.ask([b""], 10.0, head_only=False)
            for data in (CHUNKED, *(b"1\r\n", b"x\r\n") * pieces, b"0\r\n\r\n"):
                connection.received(data)
            size = len(await answer.read())
            connection.abort()
            return size

    assert asyncio.run(main()) == pieces


async def held(engines: Engines, url: str, most: int = 10) -> bytes:
    answer, room = await engines.ask(url, POST, 10.0), engines.hold()
    try:
        await room.read(answer, most)
        return b"".join(room.parts)
    finally:
        answer.close()
        room.release()


@pytest.mark.parametrize(
    ("says", "what"),
    [
        (OK + b"content-length: 11\r\n\r\n", "of 11 bytes"),
        (CHUNKED + b"9\r\n123456789\r\n2\r\n01\r\n0\r\n\r\n", "more than 10 bytes"),
    ],
)
def test_a_whole_answer_is_bounded(says: bytes, what: str) -> None:
    with pytest.raises(TooLarge, match=what):
        run(Server(says), held)
    assert run(Server(OK + b"content-length: 10\r\n\r\n1234567890"), held) == b"1234567890"


def test_whole_answers_are_bounded_together() -> None:
    # each holds nine bytes, and waits for more
    part = CHUNKED + b"9\r\n123456789\r\n"

    async def three(engines: Engines, url: str) -> tuple[list[object], int]:
        tasks = [asyncio.ensure_future(held(engines, url)) for _ in range(3)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        errors: list[object] = [type(task.exception()) for task in done]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        return errors, engines.held

    assert run(Server(part, part, part), three) == ([TooLarge], 0)


def test_large_answers_that_are_held_leave_room_for_an_error() -> None:
    async def error_beside_others(engines: Engines, url: str) -> bytes:
        engines.held = 100  # a few answers, of which each may have 64 bytes
        answer = await engines.ask(url, GET, 10.0)
        error = engines.hold()
        try:
            await error.read(answer, 4, 64)
            return b"".join(error.parts)
        finally:
            error.release()
            answer.close()

    assert run(Server(WHOLE), error_beside_others) == b"hi"


@pytest.mark.parametrize(
    "behind", [b"x", b"\r\nx", WHOLE, b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno"]
)
@pytest.mark.parametrize("later", [False, True])
def test_what_comes_behind_a_whole_answer_is_no_part_of_it(behind: bytes, later: bool) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                asked += 1
                writer.write(WHOLE if later else WHOLE + behind)
                await writer.drain()
                if later:
                    await asyncio.sleep(0)
                    writer.write(behind)
        writer.close()

    async def two(engines: Engines, url: str) -> list[tuple[int, bytes]]:
        answers = []
        for _ in range(2):
            answer = await engines.ask(url, POST, 10.0)
            answers.append((answer.status, await answer.read()))
            answer.close()
            while later and any(engines._kept.values()):
                await asyncio.sleep(0.01)
        return answers

    server: Any = Server()
    server.serve = serve
    assert run(server, two) == [(200, b"hi"), (200, b"hi")]
    assert asked == 2


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nx: y\r\n", INTERIM, b"SSH-2.0-x\r\n"]
)
def test_an_answer_that_had_begun_says_so(says: bytes) -> None:
    with pytest.raises(BrokenOff):
        run(Server(says, close=True), ask)


def test_nothing_at_all_is_no_answer_that_had_begun() -> None:
    with pytest.raises(UpstreamError) as caught:
        run(Server(None), ask)
    assert not isinstance(caught.value, BrokenOff)


def test_a_second_attempt_has_a_new_connection_whatever_is_kept() -> None:
    server = Server(*[WHOLE] * 7)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                writer.write(WHOLE)
        writer.close()

    async def use(engines: Engines, url: str) -> bytes:
        answers = [await engines.ask(url, POST, 10.0) for _ in range(6)]
        for answer in answers:
            await answer.read()
            answer.close()
        assert server.connections == sum(map(len, engines._kept.values())) == 6
        answer = await engines.ask(url, POST, 10.0, fresh=True)
        try:
            return await answer.read()
        finally:
            answer.close()

    server.serve = serve  # type: ignore[method-assign]
    assert run(server, use) == b"hi"
    assert server.connections == 7


def test_bytes_that_lie_in_the_socket_are_no_silence() -> None:
    """As after a pause of the router's process: its timers are due before it has read anything."""

    async def main() -> bytes:
        sent = threading.Event()
        listening = socket.create_server(("127.0.0.1", 0))

        def engine() -> None:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(CHUNKED)
            told.wait(10)
            connection.sendall(b"2\r\nhi\r\n0\r\n\r\n")
            sent.set()
            connection.recv(1)
            connection.close()

        told = threading.Event()
        thread = threading.Thread(target=engine)
        thread.start()
        async with Engines() as engines:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            answer = await engines.ask(url, POST, 0.2)
            told.set()
            assert sent.wait(10)
            time.sleep(0.3)  # nothing else runs here: the loop has stood still for too long
            answer._connection._check()
            try:
                return await answer.read()
            finally:
                answer.close()
                thread.join(10)
                listening.close()

    assert asyncio.run(main()) == b"hi"
