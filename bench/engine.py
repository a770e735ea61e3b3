"""An engine for `make bench` that costs as little as Python can: prebuilt bytes, no framework.

    python -m bench.engine --port P [--name MODEL] [--cpus 1,3]

What it shall do stands in the request's text, which every proxy passes on: ``tokens=N interval=S``.
Without an interval each event is a write of its own, as fast as they go; with one each token has
the time at which it was sent (CLOCK_MONOTONIC, the same in every process): ``@SECONDS;``.
Each token has one ``@``, by which the client counts them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
import time
from typing import cast

_WISH = re.compile(rb"tokens=(\d+) interval=([\d.]+)")
_DIMENSIONS = re.compile(rb"dimensions=(\d+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
AT_ONCE = 1
"""Events that are written before anybody else has a turn."""


class Sayings:
    """Everything that is ever sent, but for the times in tokens, made once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._vectors: dict[tuple[int, int], bytes] = {}
        begin = (
            f'data: {{"id":"bench-1","object":"chat.completion.chunk","created":1,"model":"{name}",'
        )
        self.before = f'{begin}"choices":[{{"index":0,"delta":{{"content":"'.encode()
        self.after = b'"},"logprobs":null,"finish_reason":null}]}\n\n'
        role = f'{begin}"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}}'
        self.head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        ) + chunk(f'{role},"logprobs":null,"finish_reason":null}}]}}\n\n'.encode())
        end = '"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]'
        self.finish = chunk(f"{begin}{end}}}\n\n".encode())
        self._usage = begin + '"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d,'
        self._usage += '"total_tokens":%d}}\n\n'
        self.done = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.token = chunk(self.before + b"@word " + self.after)

    def last(self, tokens: int, usage: bool) -> bytes:
        """What comes after the last token."""
        counted = chunk((self._usage % (tokens, tokens + 9)).encode()) if usage else b""
        return self.finish + counted + self.done

    def timed(self) -> bytes:
        """A token with the time."""
        return chunk(b"%b@%.6f;%b" % (self.before, time.monotonic(), self.after))

    def whole(self, tokens: int) -> bytes:
        """An answer that is not streamed."""
        text = "@word " * tokens
        choice = f'{{"index":0,"message":{{"role":"assistant","content":"{text}"}},'
        usage = f'{{"prompt_tokens":9,"completion_tokens":{tokens},"total_tokens":{tokens + 9}}}'
        body = (
            f'{{"id":"bench-1","object":"chat.completion","created":1,"model":"{self.name}",'
            f'"choices":[{choice}"finish_reason":"stop"}}],"usage":{usage}}}'
        )
        return answer(body)

    def vectors(self, count: int, dimensions: int) -> bytes:
        """An answer with vectors, made once."""
        made = self._vectors.get((count, dimensions))
        if made is None:
            vector = ",".join(["-0.01234567"] * dimensions)
            data = ",".join(
                f'{{"object":"embedding","index":{index},"embedding":[{vector}],"note":"@"}}'
                for index in range(count)
            )
            usage = f'"usage":{{"prompt_tokens":{count},"total_tokens":{count}}}'
            made = answer(f'{{"object":"list","data":[{data}],"model":"{self.name}",{usage}}}')
            self._vectors[count, dimensions] = made
        return made


def chunk(data: bytes) -> bytes:
    """One chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(body: str) -> bytes:
    """A whole JSON answer."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, say: Sayings) -> None:
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._got = bytearray()
        self._needed = 0
        self._left = 0
        self._tokens = 0
        self._usage = False
        self._interval = 0.0
        self._due = 0.0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._left and not self._interval:
            self._burst()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._needed:
            head, found, _ = self._got.partition(b"\r\n\r\n")
            if not found:
                return
            length = _LENGTH.search(head)
            self._needed = len(head) + 4 + (int(length[1]) if length else 0)
        if len(self._got) >= self._needed:
            request = bytes(self._got[: self._needed])
            del self._got[: self._needed]
            self._needed = 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        say = self._say
        if request.startswith(b"GET "):
            models = f'{{"object":"list","data":[{{"id":"{say.name}","object":"model"}}]}}'
            self._transport.write(answer(models))
            return
        wish = _WISH.search(request)
        tokens = int(wish[1]) if wish else 1
        interval = float(wish[2]) if wish else 0.0
        dimensions = _DIMENSIONS.search(request, 0, 4096)
        if dimensions:
            self._transport.write(say.vectors(tokens, int(dimensions[1])))
            return
        # how a client writes true is its own affair
        stream = b'"stream": true' in request or b'"stream":true' in request
        if not stream:
            self._transport.write(say.whole(tokens))
            return
        self._usage = b"include_usage" in request
        self._tokens = self._left = tokens
        self._interval = interval
        self._transport.write(say.head)
        if interval:
            self._due = self._loop.time() + interval
            self._loop.call_at(self._due, self._tick)
        else:
            self._burst()

    def _burst(self) -> None:
        """As fast as it goes, and each event by itself."""
        if self._transport.is_closing() or not self._left:
            return
        write, token = self._transport.write, self._say.token
        for _ in range(min(AT_ONCE, self._left)):
            write(token)
            self._left -= 1
        if not self._left:
            write(self._say.last(self._tokens, self._usage))
        elif not self._paused:
            self._loop.call_soon(self._burst)

    def _tick(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._say.timed())
        self._left -= 1
        if not self._left:
            self._transport.write(self._say.last(self._tokens, self._usage))
            return
        self._due += self._interval
        self._loop.call_at(self._due, self._tick)


async def serve(port: int, name: str) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    say = Sayings(name)
    server = await loop.create_server(lambda: Engine(say), "127.0.0.1", port, backlog=4096)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="bench")
    parser.add_argument("--cpus", default="")
    options = parser.parse_args()
    if options.cpus:
        os.sched_setaffinity(0, [int(cpu) for cpu in options.cpus.split(",")])
    # asyncio's own loop sends each write at once; uvloop would join them
    asyncio.run(serve(options.port, options.name))


if __name__ == "__main__":
    main()
