"""What engines do that nobody would expect, a line each, and what the client must get."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
UPSTREAM = "/upstream/MODEL/script"

IDLE = 2.0
"""Seconds: `requests.idle_timeout` of the router in these tests."""
MAX_ANSWER = 4_000_000
"""Bytes: `requests.max_answer` there."""

Script = list[list[Any]]

OK = "HTTP/1.1 200 OK\r\n"
JSON = "content-type: application/json\r\n"
EVENTS = "content-type: text/event-stream\r\n"
CHUNKED = "transfer-encoding: chunked\r\n"
STREAM = OK + EVENTS + CHUNKED + "\r\n"
END = "0\r\n\r\n"
ENDLESS = -1


def chunk(text: str) -> str:
    """A piece of a body in chunked encoding."""
    return f"{len(text):x}\r\n{text}\r\n"


def event(body: Any) -> str:
    """An event of a stream, in a chunk of its own."""
    return chunk(f"data: {body if isinstance(body, str) else json.dumps(body)}\n\n")


def token(text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    """A chat's chunk."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


def answer(text: str, **more: Any) -> str:
    """A chat's whole answer."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], **more})


def whole(body: str, fields: str = JSON, status: str = "200 OK") -> str:
    """A whole answer with its length."""
    return f"HTTP/1.1 {status}\r\n{fields}content-length: {len(body)}\r\n\r\n{body}"


DONE = event("[DONE]")
FINISHED = event(token("", finish="stop"))


@dataclass(frozen=True)
class Behaviour:
    """``gets`` is what the client must get, in the words of `outcome.Outcome.words`."""

    name: str
    script: Script
    gets: str
    path: str = CHAT
    stream: bool = False
    sent: int = 1
    """How often the engine is asked at most."""


def streamed(name: str, *script: Any, gets: str, **more: Any) -> Behaviour:
    """A behaviour in the answer to a streamed chat. A text is sent as it is."""
    return plain(name, *script, gets=gets, stream=True, **more)


def plain(name: str, *script: Any, gets: str, **more: Any) -> Behaviour:
    """A behaviour in the answer to a request that is not streamed."""
    steps = [["send", step] if isinstance(step, str) else step for step in script]
    return Behaviour(name, steps, gets, **more)


BEHAVIOURS: tuple[Behaviour, ...] = (
    plain("answers well", whole(answer("hi")), gets="200, the engine's answer"),
    streamed(
        "streams well",
        STREAM,
        event(token("a")),
        FINISHED,
        DONE,
        END,
        gets="200, the engine's events",
    ),
    plain("sends nothing at all", ["wait", 20], gets="504 engine_timeout"),
    plain(
        "sends a header line a second without end",
        OK,
        ["repeat", "x-slow: 1\r\n", ENDLESS, 0.2],
        gets="504 engine_timeout",
    ),
    plain(
        "sends 100 Continue without end",
        ["repeat", "HTTP/1.1 100 Continue\r\n\r\n", ENDLESS, 0.2],
        gets="504 engine_timeout",
    ),
    plain(
        "sends an endless head",
        OK,
        ["repeat", f"x-more: {'y' * 8000}\r\n", ENDLESS, 0],
        gets="502 engine_failed",
    ),
    plain(
        "sends an endless answer",
        OK,
        JSON,
        CHUNKED,
        "\r\n",
        ["repeat", chunk("x" * 65536), ENDLESS, 0],
        gets="502 engine_failed",
    ),
)
