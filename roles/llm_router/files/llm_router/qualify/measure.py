"""An answer as its client sees it, whether anything is wrong with it, and percentiles. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_router.engines.base import last_part
from llm_router.engines.values import count, rate
from llm_router.json_codec import from_json

ENDS = ("stop", "length", "tool_calls", "function_call")
"""Finish reasons of an answer that is whole. vLLM says ``abort`` for one that it dropped."""


def quantile(values: Sequence[float], part: float) -> float | None:
    """The nearest rank: the smallest value that at least this part of all does not exceed. None
    of no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def median(values: Sequence[float]) -> float | None:
    """The middle one, or the mean of the two in the middle; None of no values."""
    return statistics.median(values) if values else None


@dataclass
class Answer:
    """Of one request. Seconds are counted from when it was sent. ``text`` is how many characters
    other than space came, reasoning included; ``numbers`` how long a vector is."""

    status: int = 0
    error: str = ""
    model: str = ""
    text: int = 0
    numbers: int = 0
    finish_reason: str = ""
    complete: bool = False
    """It ended as its API says: the whole JSON, or `[DONE]`."""
    tokens: int | None = None
    rate: float | None = None
    """Tokens per second as the router measured them, else by the events seen here."""
    first_seconds: float | None = None
    seconds: float = 0.0
    late: bool = False
    """It was not over within the time that it was given."""

    def wrong(self, names: Collection[str]) -> str | None:
        """What is wrong with it, or None. ``names``: what its engine may call the model; none: any
        name will do."""
        if self.error:
            return self.error
        if not self.complete:
            return "the answer broke off"
        if not self.text and not self.numbers:
            return "the answer has no text"
        if self.text and self.finish_reason not in ENDS:
            return f"finish_reason is {self.finish_reason!r}, not one of {', '.join(ENDS)}"
        if not self.model:
            return "the answer does not name its model"
        if names and self.model not in names and last_part(self.model) not in names:
            return f"the answer is from '{self.model}', not from '{min(names)}'"
        return None


def read_whole(answer: Answer, content: bytes) -> None:
    """Fill ``answer`` from the body of a response that is not streamed."""
    try:
        body = from_json(content, strict=True)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        answer.error = answer.error or f"HTTP {answer.status} without JSON"
        return
    if answer.status != 200:
        answer.error = _message(body) or f"HTTP {answer.status}"
        return
    _take(answer, body)
    data = body.get("data")
    if isinstance(data, list) and data and isinstance(data[0], dict):
        vector = data[0].get("embedding")
        answer.numbers = len(vector) if isinstance(vector, list) else 0
    answer.complete = True


@dataclass
class StreamReader:
    """Reads an event stream, as it comes, into ``answer``."""

    answer: Answer = field(default_factory=lambda: Answer(status=200))
    _rest: bytes = b""
    _last: float | None = None
    _events: int = 0

    def piece(self, content: bytes, seconds: float) -> None:
        """Some bytes of it, so many seconds after the request was sent."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            self._line(line.strip(), seconds)

    def _line(self, line: bytes, seconds: float) -> None:
        if not line.startswith(b"data:"):
            return
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self.answer.complete = True
            return
        try:
            body = from_json(payload, strict=True)
        except ValueError:
            self.answer.error = self.answer.error or "an event of the stream is not JSON"
            return
        if not isinstance(body, dict):
            return
        if body.get("error"):
            self.answer.error = _message(body) or "an error in the stream"
            return
        if _take(self.answer, body):
            self._events += 1
            self._last = seconds
            if self.answer.first_seconds is None:
                self.answer.first_seconds = seconds

    def ended(self, seconds: float) -> Answer:
        """The stream is over."""
        answer = self.answer
        answer.seconds = seconds
        tokens = answer.tokens if answer.tokens is not None else self._events
        first = answer.first_seconds
        if answer.rate is None and first is not None and self._last is not None:
            if tokens > 1 and self._last > first:
                answer.rate = (tokens - 1) / (self._last - first)
        return answer


def _take(answer: Answer, body: dict[str, Any]) -> bool:
    """Whether there was a piece of text in it, if only a space."""
    if isinstance(body.get("model"), str):
        answer.model = body["model"]
    usage = body.get("usage")
    if isinstance(usage, dict):
        answer.tokens = count(usage.get("completion_tokens"))
        answer.rate = rate(usage.get("tokens_per_second")) or answer.rate
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    choice = choices[0]
    if isinstance(choice.get("finish_reason"), str):
        answer.finish_reason = choice["finish_reason"]
    said = choice.get("message") or choice.get("delta") or choice
    piece = _piece(said) if isinstance(said, dict) else ""
    answer.text += len("".join(piece.split()))
    return bool(piece)


def _piece(said: dict[str, Any]) -> str:
    """Reasoning is text too; both of its names have the same."""
    for key in ("content", "text", "reasoning_content", "reasoning"):
        piece = said.get(key)
        if isinstance(piece, str) and piece:
            return piece
    return ""


def _message(body: dict[str, Any]) -> str:
    error = body.get("error", body.get("detail"))
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else ""
