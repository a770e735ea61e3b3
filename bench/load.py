"""The load of `make bench`: raw connections, each with one request after the other.

    python -m bench.load < WISH.json > RESULT.json

A process of its own, which knows HTTP as far as it must: where an answer ends, and when its first
token and each of the others came. Every token of the bench's engine has one ``@``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

_TIME = re.compile(rb"@(\d+\.\d+);")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Wish:
    """What to ask of whom. Times in seconds."""

    port: int
    path: str = "/v1/chat/completions"
    key: str = ""
    connections: int = 1
    seconds: float = 2.0
    """For so long new requests are sent on each connection; 0: one request each."""
    ramp: float = 0.0
    """The connections begin spread over so long a time."""
    tokens: int = 128
    interval: float = 0.0
    stream: bool = True
    pad: int = 0
    """Bytes of an image in the request."""
    messages: int = 0
    """Messages before the last one, as an agent's transcript has them, with tools."""
    inputs: list[int] = field(default_factory=list)
    """Texts to embed in a request, for one connection after the other."""
    dimensions: int = 64
    """Of each text's vector."""
    stall: float = 0.0
    """Nothing is read of an answer for so long."""
    cpus: list[int] = field(default_factory=list)
    deadline: float = 60.0


@dataclass
class Load:
    """What came of it."""

    requests: int = 0
    failed: int = 0
    tokens: int = 0
    lost: int = 0
    seconds: float = 0.0
    ttft: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    said: str = ""
    """The beginning of an answer that was not as wished."""


def transcript(messages: int) -> dict[str, Any]:
    """What an agent sends with each step: 1,200 messages have 2 MB."""
    code = 'def read(path):\n    with open(path) as file:\n        return file.read("é")\n' * 20
    turns: list[dict[str, Any]] = []
    for number in range(messages // 3):
        function = {"name": "read", "arguments": json.dumps({"path": f"/src/{number}.py"})}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        turns += [
            {"role": "user", "content": f"Look at file {number} 🙂. " + code},
            {"role": "assistant", "content": "✅ Here it is.\n" + code, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{number}", "content": code},
        ]
    properties = {
        name: {"type": "string", "description": "The path of a file, from the root. " * 4}
        for name in ("path", "text", "pattern")
    }
    parameters = {"type": "object", "properties": properties, "required": ["path"]}
    tools = [
        {
            "type": "function",
            "function": {"name": f"tool_{number}", "description": code, "parameters": parameters},
        }
        for number in range(20)
    ]
    return {"messages": turns, "tools": tools}


def body(wish: Wish, inputs: int = 0) -> dict[str, Any]:
    """A request's body."""
    text: Any = f"tokens={inputs or wish.tokens} interval={wish.interval:g}"
    if inputs:
        texts = [f"dimensions={wish.dimensions} {text}"] + ["a text to find again " * 8] * inputs
        return {"model": "bench", "input": texts[:inputs]}
    if wish.pad:
        image = {"url": "data:image/png;base64," + "iVBORw0K" * (wish.pad // 8)}
        text = [{"type": "text", "text": text}, {"type": "image_url", "image_url": image}]
    made = {"model": "bench", "stream": wish.stream, "temperature": 0.7}
    last = {"role": "user", "content": text}
    if not wish.messages:
        return {**made, "messages": [last]}
    before = transcript(wish.messages)
    # the engine looks for its orders from the beginning on
    return {**made, **before, "messages": [last, *before["messages"]]}


def request(wish: Wish, inputs: int = 0) -> bytes:
    """The bytes of a request."""
    raw = json.dumps(body(wish, inputs)).encode()
    head = (
        f"POST {wish.path} HTTP/1.1\r\nhost: 127.0.0.1:{wish.port}\r\n"
        f"authorization: Bearer {wish.key or 'none'}\r\ncontent-type: application/json\r\n"
        f"accept: */*\r\nuser-agent: bench\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


class Client(asyncio.Protocol):
    """One connection and its requests."""

    def __init__(self, wish: Wish, raw: bytes, expected: int, load: Load, until: float) -> None:
        self._wish, self._raw, self._load, self._until = wish, raw, load, until
        self._expected = expected
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._tokens, self._left, self._tail, self._first, self._last = 0, -1, b"", b"", b""
        self._began = time.monotonic()
        self._transport.write(self._raw)
        if self._wish.stall:
            self._transport.pause_reading()
            self._loop.call_later(self._wish.stall, self._transport.resume_reading)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._first:
            self._first = data[:400]
        found = data.count(b"@")
        if found:
            if not self._tokens:
                self._load.ttft.append(now - self._began)
            self._tokens += found
            if self._wish.interval:
                whole = self._tail + data
                for time_ in _TIME.finditer(whole):
                    self._load.lateness.append(now - float(time_[1]))
                cut = whole.rfind(b"@")
                self._tail = (
                    whole[cut:] if cut > len(whole) - 40 and b";" not in whole[cut:] else b""
                )
        if self._is_over(data):
            self._next()

    def _is_over(self, data: bytes) -> bool:
        self._last = (self._last + data[-5:])[-5:]
        if self._left < 0:
            head, _, body = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if length is None:
                self._left = 0
                return self._last == b"0\r\n\r\n"
            self._left = int(length[1])
            data = body
            self._left -= len(data)
            return self._left <= 0
        if self._left:
            self._left -= len(data)
            return self._left <= 0
        return self._last == b"0\r\n\r\n"

    def _next(self) -> None:
        load = self._load
        load.requests += 1
        load.tokens += self._tokens
        if self._tokens != self._expected:
            load.lost += max(0, self._expected - self._tokens)
            load.failed += 1
            load.said = load.said or self._first.decode("latin-1")
        if time.monotonic() < self._until:
            self._ask()
        else:
            self._transport.close()
            self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._load.failed += 1
            self._load.lost += self._expected - self._tokens
            self._load.said = self._load.said or f"connection lost: {exc} {self._first!r}"
            self._end()


async def measure(wish: Wish) -> Load:
    """Run it."""
    loop = asyncio.get_running_loop()
    load = Load()
    requests = {count: request(wish, count) for count in wish.inputs or [0]}
    began = time.monotonic()
    until = began + wish.seconds

    async def one(number: int) -> None:
        await asyncio.sleep(wish.ramp * number / wish.connections)
        with socket.socket() as made:
            made.setblocking(False)
            if wish.stall:
                # less than some packets of loopback's size, and TCP itself hardly goes on: the
                # sender then waits for its persist timer, 0.2 s and more, for each small window
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
            await loop.sock_connect(made, ("127.0.0.1", wish.port))
            inputs = wish.inputs[number % len(wish.inputs)] if wish.inputs else 0
            client = Client(wish, requests[inputs], inputs or wish.tokens, load, until)
            await loop.create_connection(lambda: client, sock=made.dup())
        await client.ended

    everyone = [asyncio.ensure_future(one(number)) for number in range(wish.connections)]
    _, late = await asyncio.wait(everyone, timeout=wish.seconds + wish.ramp + wish.deadline)
    for task in late:
        task.cancel()
        load.failed += 1
        load.said = load.said or "not ended in time"
    load.seconds = time.monotonic() - began
    return load


def main() -> None:
    wish = Wish(**json.load(sys.stdin))
    if wish.cpus:
        os.sched_setaffinity(0, wish.cpus)
    if wish.connections == 1:
        # the engine, on the same CPU, would keep the first token from being seen
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    load = asyncio.run(measure(wish))
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
