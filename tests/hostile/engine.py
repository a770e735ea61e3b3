"""An engine that does what a request's first message says, down to the byte.

    python engine.py --port PORT --name NAME --record FILE

A script is JSON: a list of steps, each a list of a name and its values. Text is sent as Latin-1, so
that a script can have any byte.

    ["name", TEXT]                    what the script is called
    ["send", TEXT]                    send it
    ["repeat", TEXT, TIMES, SECONDS]  send it TIMES times, SECONDS apart; -1: as good as without end
    ["wait", SECONDS]                 send nothing
    ["close"], ["reset"]              end the connection: in order, or with a TCP reset
    ["reset others"]                  reset the engine's other connections
    ["once", STEPS]                   what is done only the first time that the script is sent
    ["log", TEXT, TIMES]              write it to the engine's log
    ["exit"]                          end the process

What is no script gets a short, correct answer: probes, the first token of a load, and the request
after a script, which shows whether the model still answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

LONGEST = 30.0
"""Seconds that a script may take, however long its client stays."""
MOST = 400_000_000
"""Bytes of a text that is repeated without end: a router without a bound shall fail its test, and
not use up the machine."""
GOOD = {
    "id": "good",
    "object": "chat.completion",
    "created": 1,
    "choices": [
        {
            "index": 0,
            "text": "good",
            "message": {"role": "assistant", "content": "good"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class Ended(Exception):
    """The script has ended the connection."""


class Engine:
    """Serves one model; ``record`` gets a line for each script that was begun."""

    def __init__(self, name: str, record: Path) -> None:
        self._name = name
        self._record = record
        self._writers: set[asyncio.StreamWriter] = set()
        self._played: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, EOFError, Ended, asyncio.TimeoutError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = head.partition("\r\ncontent-length:")[2].partition("\r\n")[0]
        body = await reader.readexactly(int(length or 0))
        script = _script(body)
        if script is not None:
            with self._record.open("a", encoding="utf-8") as record:
                record.write(json.dumps(script) + "\n")
            await asyncio.wait_for(self._play(script, writer), LONGEST)
            return
        listed = {"object": "list", "data": [{"id": self._name, "object": "model"}]}
        data = json.dumps(listed if head.startswith("get ") else {**GOOD, "model": self._name})
        fields = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n{data}".encode())
        await writer.drain()

    async def _play(self, script: list[list[Any]], writer: asyncio.StreamWriter) -> None:
        for step, *values in script:
            if step == "name":
                continue
            if step == "send":
                writer.write(values[0].encode("latin-1"))
                await writer.drain()
            elif step == "repeat":
                text, times, seconds = values
                data = text.encode("latin-1")
                times = MOST // len(data) if times < 0 else times
                while times:
                    times -= 1
                    writer.write(data)
                    await writer.drain()
                    # a drain that has room does not wait: the other connections have their turn
                    await asyncio.sleep(seconds)
            elif step == "wait":
                await asyncio.sleep(values[0])
            elif step == "close":
                writer.close()
                await writer.wait_closed()
                raise Ended
            elif step == "reset":
                _reset(writer)
                raise Ended
            elif step == "reset others":
                for other in self._writers - {writer}:
                    _reset(other)
            elif step == "once":
                text = json.dumps(values)
                if text not in self._played:
                    self._played.add(text)
                    await self._play(values[0], writer)
            elif step == "log":
                for _ in range(values[1]):
                    print(values[0], flush=True)
            elif step == "exit":
                os._exit(3)
            else:
                raise AssertionError(f"no such step: {step}")


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _script(body: bytes) -> list[list[Any]] | None:
    """The script that a request has, in whatever its API calls the first text."""
    try:
        asked = json.loads(body)
        text = asked.get("prompt") or asked.get("input") or asked.get("script")
        if text is None:
            text = asked["messages"][0]["content"]
        found = json.loads(text)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return found if isinstance(found, list) else None


async def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    engine = Engine(options.name, options.record)
    server = await asyncio.start_server(
        engine.serve, "127.0.0.1", options.port, limit=64 * 1024 * 1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
