"""A stand-in engine for what no real one shows on demand: exact timing, and faults.

It speaks the part of an engine's contract that the router relies on: ``GET /v1/models`` with the
model's id, 503 on it while it loads, ``POST /v1/completions`` and ``/v1/chat/completions``,
streamed and not, with ``usage`` in a stream only when ``stream_options.include_usage`` asks for it.
Standard library only, so that it starts in a few hundredths of a second.

Every generation request's body is appended as a line to ``--record``, every start and stop with its
time to ``--events``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True, help="the model's id")
    parser.add_argument("--load", type=float, default=0.0, help="seconds until it is ready")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds between tokens")
    parser.add_argument("--first", type=float, default=0.0, help="seconds to the first token")
    parser.add_argument("--tokens", type=int, default=5)
    parser.add_argument("--record", help="file for the requests that came")
    parser.add_argument("--events", help="file for starts and stops")
    parser.add_argument(
        "--fault",
        choices=["exit-while-loading", "never-ready", "no-token", "die-mid-stream", "ignore-term"],
    )
    return parser.parse_args()


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ready_at = time.monotonic() + options.load
        self.stop = asyncio.Event()

    def note(self, what: str) -> None:
        if self.options.events:
            with Path(self.options.events).open("a", encoding="utf-8") as file:
                file.write(f"{time.monotonic():.6f} {what} {self.options.name}\n")

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self.note("start")
        if self.options.fault == "ignore-term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        if self.options.fault == "exit-while-loading":
            await asyncio.sleep(self.options.load)
            print("CUDA out of memory, says the stand-in", flush=True)
            sys.exit(3)
        server = await asyncio.start_server(self.connection, "127.0.0.1", self.options.port)
        async with server:
            await self.stop.wait()
            self.note("stop")
            os._exit(0)  # leaving the block would wait for open connections

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = 0
                for line in head.split("\r\n")[1:]:
                    key, _, value = line.partition(":")
                    if key.lower() == "content-length":
                        length = int(value)
                body = await reader.readexactly(length)
                method, path, _ = head.split(" ", 2)
                await self.respond(method, path, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def respond(
        self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        loading = time.monotonic() < self.ready_at or self.options.fault == "never-ready"
        if loading:
            error = {
                "error": {"message": "Loading model", "type": "unavailable_error", "code": 503}
            }
            await self.answer(writer, 503, error)
        elif method == "GET" and path == "/v1/models":
            entry = {
                "id": self.options.name,
                "object": "model",
                "created": 1,
                "owned_by": "standin",
            }
            await self.answer(writer, 200, {"object": "list", "data": [entry]})
        elif method == "POST" and path in ("/v1/chat/completions", "/v1/completions"):
            await self.generate(path, json.loads(body), writer)
        else:
            await self.answer(writer, 404, {"error": {"message": f"no {path}"}})

    async def generate(self, path: str, request: Any, writer: asyncio.StreamWriter) -> None:
        chat = path == "/v1/chat/completions"
        if self.options.record and chat:
            with Path(self.options.record).open("a", encoding="utf-8") as file:
                file.write(json.dumps(request) + "\n")
        if self.options.fault == "no-token":
            await self.answer(writer, 500, {"error": {"message": "no kernel image"}})
            return
        count = request.get("max_tokens") or self.options.tokens
        kind = "chat.completion" if chat else "text_completion"
        base = {"id": "standin-1", "created": 1, "model": self.options.name}
        usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
        words = [f"w{index} " for index in range(count)]
        await asyncio.sleep(self.options.first)
        if not request.get("stream"):
            text = "".join(words)
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
            choice |= (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            await self.answer(
                writer, 200, {**base, "object": kind, "choices": [choice], "usage": usage}
            )
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        kind = "chat.completion.chunk" if chat else "text_completion"

        async def event(choices: list[Any], **extra: Any) -> None:
            data = json.dumps({**base, "object": kind, "choices": choices, **extra})
            await self.piece(writer, f"data: {data}\n\n".encode())

        for index, word in enumerate(words):
            if index:
                await asyncio.sleep(self.options.interval)
            if self.options.fault == "die-mid-stream" and index == 2:
                os._exit(9)
            delta = {"delta": {"content": word}} if chat else {"text": word}
            await event([{"index": 0, **delta, "finish_reason": None}])
        await event(
            [{"index": 0, **({"delta": {}} if chat else {"text": ""}), "finish_reason": "stop"}]
        )
        if (request.get("stream_options") or {}).get("include_usage"):
            await event([], usage=usage)
        await self.piece(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def piece(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()

    async def answer(self, writer: asyncio.StreamWriter, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        await writer.drain()


if __name__ == "__main__":
    asyncio.run(Engine(parse()).serve())
