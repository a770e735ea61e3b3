"""How often a large request body is in memory, from the client's socket to the engine's."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import tracemalloc
from typing import Any

import pytest
import uvicorn

from llm_router.api.errors import ApiError
from llm_router.api.exchange import Call
from llm_router.api.large import LargeBodies
from llm_router.api.reply import ClientGone, read_body
from llm_router.api.upstream import Engines
from llm_router.body_reader import Task
from llm_router.http_protocol import LINE, Bounds, Line, bounded
from llm_router.json_members import pieces

MEBI = 1024 * 1024
LIMIT = 16 * MEBI
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Sink:
    """An engine that keeps nothing of a request but its size."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.got = 0
        self.last = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        buffer = memoryview(bytearray(65536))
        client, _ = self._listener.accept()
        with client:
            head = bytes(buffer[: client.recv_into(buffer)])
            start, _, body = head.partition(b"\r\n\r\n")
            size = int(start.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.got = len(body)
            while self.got < size:
                count = client.recv_into(buffer)
                self.got += count
                self.last = bytes(buffer[:count][-9:])
            client.sendall(WHOLE)
            client.recv_into(buffer)

    def end(self) -> None:
        self._listener.close()
        self._thread.join()


class App:
    """Reads a body, splits it and sends it on, as the router does."""

    def __init__(self, url: str, limit: int = LIMIT, idle: float = 9.0) -> None:
        self.url, self.limit, self.idle = url, limit, idle
        self.error: ApiError | ClientGone | None = None
        self.peak = 0
        self.turns = 0
        self.over = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        line: Line = scope[LINE]
        line.attach()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        woken = 0
        changed = line.changed

        async def counted() -> None:
            nonlocal woken
            await changed()
            woken += 1

        line.changed = counted  # type: ignore[method-assign]
        try:
            raw = await read_body(line, limit=self.limit, idle=self.idle, total=20.0)
        except (ApiError, ClientGone) as error:
            self.error = error
            self.over.set()
            if isinstance(error, ApiError):
                line.start(400, [], b"")
            return
        self.turns = woken
        with LargeBodies() as bodies:
            split = await bodies.read(raw, Task(strip=True, background="^### Task"))
        made = pieces({**split.members, "model": "b"}, split.members, {})
        async with Engines() as engines:
            answer = await engines.ask(self.url, Call("POST", "/", {}, made), 20.0)
            await answer.read()
            answer.close()
        self.peak = tracemalloc.get_traced_memory()[1] - before
        self.over.set()
        line.start(200, [], b"")


def serve(app: App, *parts: bytes, chunked: bool = False, announced: int = 0) -> bytes:
    """The answer to a request whose body comes in these parts; the client leaves after them where
    more was ``announced``."""

    def client(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
            size = b"content-length: %d" % (announced or sum(map(len, parts)))
            if chunked:
                size = b"transfer-encoding: chunked"
            made.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n" + size + b"\r\n\r\n")
            for part in parts:
                made.sendall(b"%x\r\n" % len(part) if chunked else b"")
                made.sendall(part)
                made.sendall(b"\r\n" if chunked else b"")
            made.sendall(b"0\r\n\r\n" if chunked else b"")
            if announced:
                return b""
            return made.recv(4096)

    async def main() -> bytes:
        config = uvicorn.Config(
            app, port=0, http=bounded(Bounds(9.0)), ws="none", lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[config.bind_socket()])
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            answer = await asyncio.to_thread(client, port)
            await app.over.wait()
            return answer
        finally:
            await server.shutdown()

    return asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("text", ["x", "é"])
def test_a_large_body_is_in_memory_once(text: str, chunked: bool) -> None:
    """The parser's parts are put together once; nothing else copies the body."""
    size = 8 * MEBI // len(text.encode())
    body = {"model": "a", "messages": [{"role": "user", "content": [text * size]}], "end": 9}
    raw = json.dumps(body, ensure_ascii=False).encode()
    sink = Sink()
    app = App(sink.url)
    tracemalloc.start()
    try:
        answer = serve(app, raw, chunked=chunked)
    finally:
        tracemalloc.stop()
        sink.end()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert sink.got == len(raw)
    assert sink.last.endswith(b'"end": 9}')
    # a bytearray grows by an eighth; the rest is what is on its way in the sockets' buffers
    assert app.peak < 1.25 * len(raw) + MEBI
    assert app.turns < 5  # parts wake up nobody


def test_a_chunked_body_that_is_larger_than_allowed_is_a_413() -> None:
    app = App("", limit=100_000)
    answer = serve(app, b"x" * 60_000, b"x" * 60_000, chunked=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert isinstance(app.error, ApiError)
    assert app.error.status == 413


def test_a_client_that_leaves_within_its_body_is_gone() -> None:
    app = App("")
    serve(app, b"x" * 100_000, announced=100_001)
    assert isinstance(app.error, ClientGone)
