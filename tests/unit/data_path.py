"""The path of a stream through the router's own parts, with nothing but the sockets left out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from llm_router.api.dialects import OPENAI
from llm_router.api.errors import ApiError
from llm_router.api.generation import Proxy
from llm_router.api.paths import CHAT
from llm_router.api.reply import Reply
from llm_router.api.upstream import _Connection
from llm_router.config.schema import Model
from llm_router.http_protocol import Line

Feed = Callable[[bytes], None]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Transport:
    """Takes everything, and keeps it unless ``got`` is None."""

    def __init__(self) -> None:
        self.got: bytearray | None = bytearray()

    def write(self, data: bytes) -> None:
        if self.got is not None:
            self.got += data

    def writelines(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.write(part)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    abort = pause_reading = resume_reading = close


class Stream:
    """One streamed chat. ``repairs`` and ``style`` as models.yml and the request have them."""

    def __init__(
        self,
        style: str = "content",
        repairs: dict[str, Any] | None = None,
        *,
        wants_usage: bool = True,
    ) -> None:
        self.client, self.engine = Transport(), Transport()
        cycle: Any = SimpleNamespace(
            more_body=False,
            scope={"method": "POST", "http_version": "1.1"},
            default_headers=[],
            keep_alive=True,
            disconnected=False,
            message_event=asyncio.Event(),
            on_response=lambda: None,
        )
        flow = SimpleNamespace(write_paused=False)
        protocol = SimpleNamespace(transport=self.client, flow=flow, line=None)
        self._line = Line(protocol, cycle)
        self.reply = Reply(self._line, OPENAI)
        self.connection = _Connection(deque(), memoryview(bytearray(1)))
        self.connection.connection_made(self.engine)  # type: ignore[arg-type]
        self.answered: list[tuple[Any, ...]] = []
        self._services: Any = SimpleNamespace(
            clock=asyncio.get_running_loop().time,
            metrics=SimpleNamespace(answered=lambda *seen: self.answered.append(seen)),
        )
        entry = {"backend": "sglang", "service": "sglang.service", "repairs": repairs}
        self._exchange: Any = SimpleNamespace(
            operation=CHAT,
            model=Model.model_validate({"name": "m", **entry}),
            stream=True,
            wants_usage=wants_usage,
            style=style,
            base={"id": "x", "created": 1, "model": "m"},
            queue_seconds=0.0,
            switch_seconds=0.0,
            usage_rate=True,
        )

    async def run(
        self, first: Iterable[bytes], between: Callable[[Feed], None], last: Iterable[bytes]
    ) -> ApiError | None:
        """Feed what the engine sends after its head, in these pieces; how it failed, if it did."""
        answer = self.connection.ask([b""], 60.0, head_only=False)
        feed = self.connection.received
        feed(HEAD)
        proxy = Proxy(CHAT, lambda _: self._exchange)
        services, exchange = self._services, self._exchange
        relay = proxy._relay(services, exchange, self.reply, self._line, answer, 0.0)
        task = asyncio.create_task(relay)
        await asyncio.sleep(0)
        for piece in first:
            feed(piece)
        between(feed)
        for piece in last:
            feed(piece)
        try:
            await task
        except ApiError as error:
            return error
        finally:
            answer.close()
            self.connection.connection_lost(None)
        return None


def chunk(data: bytes) -> bytes:
    """One chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunked(got: bytes) -> bytes:
    """The body of an answer in chunked encoding, as far as it came."""
    rest = got.partition(b"\r\n\r\n")[2]
    out = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        out.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(out)
