"""A client with little of its own: raw HTTP/1.1 over asyncio's streams, many in one process."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

CHAT = "/v1/chat/completions"


@dataclass
class Outcome:
    """How a request ended; times are seconds since it was sent.

    ``kind``: answered, error (a clear one, of the router's), cut (the connection broke),
    unclear (what no client could understand), hung (not ended at its deadline).
    """

    kind: str
    model: str
    status: int = 0
    code: str = ""
    first_byte: float = 0.0
    seconds: float = 0.0
    sent: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> float:
        """The moment when it ended."""
        return self.sent + self.seconds


def encode(model: str, *, stream: bool, switch: bool = True, **extra: object) -> bytes:
    """A chat request; without ``switch`` it may not cause one."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    data = json.dumps({**body, **extra}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\nx-llm-router-status: off\r\nconnection: close\r\n"
        f"x-llm-router-switch: {'allow' if switch else 'never'}\r\n\r\n"
    )
    return head.encode() + data


async def ask(
    port: int,
    model: str,
    *,
    deadline: float,
    stream: bool = False,
    switch: bool = True,
    **extra: object,
) -> Outcome:
    """Send a chat request and read its answer to the end."""
    outcome = Outcome("hung", model)
    answer = bytearray()
    try:
        async with asyncio.timeout(deadline):
            request = encode(model, stream=stream, switch=switch, **extra)
            await _exchange(port, request, outcome, answer)
        _judge(outcome, bytes(answer), stream=stream)
    except TimeoutError:
        pass
    except OSError as error:
        outcome.kind, outcome.code = "cut", type(error).__name__
    outcome.seconds = time.monotonic() - outcome.sent
    return outcome


async def _exchange(port: int, request: bytes, outcome: Outcome, answer: bytearray) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        while data := await reader.read(65536):
            outcome.first_byte = outcome.first_byte or time.monotonic() - outcome.sent
            answer += data
    finally:
        writer.transport.abort()


def _judge(outcome: Outcome, answer: bytes, *, stream: bool) -> None:
    head, separator, body = answer.partition(b"\r\n\r\n")
    outcome.kind = "cut"
    if not separator:
        return
    outcome.status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head.lower():
        if not body.endswith(b"0\r\n\r\n"):
            return
        body = _unchunked(body)
    elif (length := _length(head)) is not None and len(body) < length:
        return
    outcome.kind = "unclear"
    try:
        if stream and outcome.status == 200:
            _judge_stream(outcome, body)
        else:
            _judge_whole(outcome, json.loads(body))
    except (ValueError, KeyError, TypeError, IndexError):
        outcome.code = body[-200:].decode("utf-8", "replace")


def _judge_stream(outcome: Outcome, body: bytes) -> None:
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if events[-1] != b"[DONE]" or events.count(b"[DONE]") != 1:
        outcome.code = "no [DONE], or several"
        return
    chunks = [json.loads(event) for event in events[:-1]]
    errors = [chunk["error"] for chunk in chunks if "error" in chunk]
    if errors:
        outcome.kind, outcome.code = "error", str(errors[0]["code"])
    elif any(choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]):
        outcome.kind = "answered"


def _judge_whole(outcome: Outcome, body: dict[str, object]) -> None:
    error = body.get("error")
    if isinstance(error, dict) and error["message"]:
        outcome.kind, outcome.code = "error", str(error["code"])
    elif outcome.status == 200 and body["choices"]:
        outcome.kind = "answered"


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


def _unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        parts.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return b"".join(parts)
