"""An event stream on its way from engine to client: measured, and held at its last event. Pure.

Bytes go in and the same bytes come out, event by event, whatever the borders of the chunks were.
What is measured is what a person sees: when the first token came, when the last, and how many there
were by the engine's own count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_router.api.wire import event as event_of

_END_OF_EVENT = re.compile(rb"\n\r?\n")
LONGEST_EVENT = 8 * 1024 * 1024
"""An event that is longer passes in pieces, unmeasured: memory per stream is bounded."""


@dataclass
class Measured:
    """What was seen of one answer; times are the caller's clock, in seconds."""

    first_token: float | None = None
    last_token: float | None = None
    token_events: int = 0
    usage: dict[str, Any] | None = None
    chunk_id: str | None = None
    tool_calls: bool = False
    finished: bool = False
    """Whether ``[DONE]`` came."""

    @property
    def tokens(self) -> int:
        """Generated tokens: the engine's count, else the number of events that carried text."""
        counted = (self.usage or {}).get("completion_tokens")
        return counted if isinstance(counted, int) else self.token_events

    @property
    def seconds(self) -> float:
        """From the first token to the last."""
        if self.first_token is None or self.last_token is None:
            return 0.0
        return self.last_token - self.first_token

    @property
    def rate(self) -> float | None:
        """Tokens per second; None when one token, or no time, was seen."""
        if self.tokens < 2 or self.seconds <= 0:
            return None
        return (self.tokens - 1) / self.seconds


@dataclass
class SseRelay:
    """Feed it what the engine sends; it returns what the client shall have.

    ``drop_usage``: the client did not ask for the usage chunk, the router did.
    ``before_done`` makes what goes in front of ``[DONE]``, from what was measured.
    ``enrich`` gives keys to add to a usage chunk that the client asked for.
    """

    before_done: Callable[[Measured], bytes]
    enrich: Callable[[Measured], Mapping[str, Any]]
    drop_usage: bool
    measured: Measured = field(default_factory=Measured)
    _rest: bytes = b""

    def feed(self, data: bytes, now: float) -> bytes:
        """Whole events out of what has come so far."""
        buffer = self._rest + data if self._rest else data
        out: list[bytes] = []
        start = 0
        for match in _END_OF_EVENT.finditer(buffer):
            out.append(self._event(buffer[start : match.end()], now))
            start = match.end()
        self._rest = buffer[start:]
        if len(self._rest) > LONGEST_EVENT:
            out.append(self._rest)
            self._rest = b""
        return b"".join(out)

    def close(self, now: float) -> bytes:
        """The engine's stream ended: what is left, be it a last event without its blank line."""
        rest, self._rest = self._rest, b""
        return self._event(rest, now) if rest else b""

    def _event(self, event: bytes, now: float) -> bytes:
        data = _data_of(event)
        if data is None:
            return event
        if data == b"[DONE]":
            self.measured.finished = True
            return self.before_done(self.measured) + event
        try:
            body = json.loads(data)
        except ValueError:
            return event
        if not isinstance(body, dict):
            return event
        self._measure(body, now)
        usage_only = self.measured.usage is not None and body.get("choices") == []
        if not usage_only:
            return event
        if self.drop_usage:
            return b""
        body["usage"] = {**body["usage"], **self.enrich(self.measured)}
        return event_of(body)

    def _measure(self, body: dict[str, Any], now: float) -> None:
        measured = self.measured
        if measured.chunk_id is None and isinstance(body.get("id"), str):
            measured.chunk_id = body["id"]
        usage = body.get("usage")
        if isinstance(usage, dict):
            measured.usage = usage
        choices = body.get("choices")
        if not isinstance(choices, list):
            return
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else {}
            if delta.get("tool_calls") or delta.get("function_call"):
                measured.tool_calls = True
            elif not any(
                part.get(key)
                for part in (delta, choice)
                for key in ("content", "reasoning_content", "reasoning", "text")
            ):
                continue
            measured.token_events += 1
            measured.last_token = now
            if measured.first_token is None:
                measured.first_token = now


def _data_of(event: bytes) -> bytes | None:
    """The payload of an event; None for a comment or an event without data."""
    lines = [line for line in event.splitlines() if line.startswith(b"data:")]
    if not lines:
        return None
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
