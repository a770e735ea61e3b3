"""What became of requests: the last of them, and when each model was used. Bounded, in memory."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_router.api.errors import ApiError
from llm_router.api.exchange import Exchange

if TYPE_CHECKING:
    from llm_router.api.services import Services

JUST_ENDED = 10_000
"""Requests that may end between two samples without any being missed in the charts."""
CAPTURED = 8_000
"""Bytes of a request's body that are kept where ``recent.capture`` is on."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class FirstToken:
    """When an answer's first token came, by the services' clock, and how long it took: all that is
    kept of a request for the charts."""

    clock: float
    ttft: float

    @classmethod
    def of(cls, exchange: Exchange) -> FirstToken | None:
        """None until it has come."""
        took = ttft(exchange)
        if took is None or exchange.measured is None or exchange.measured.first_token is None:
            return None
        return cls(exchange.measured.first_token, took)


class Activity:
    """Takes note of requests that ended. ``keep``: how many of them are remembered."""

    def __init__(self, keep: int = 200) -> None:
        self.recent: deque[Entry] = deque(maxlen=keep)
        self.count = 0
        """How many have ended since the router began."""
        self.used: dict[str, float] = {}
        """By model: when it last answered, in seconds since the epoch."""
        self.tokens = 0
        """Generated, in all requests that have ended."""
        self.first_tokens: deque[FirstToken] = deque(maxlen=JUST_ENDED)
        """Of those that have ended since the last sample, which empties it."""

    def ended(self, services: Services, exchange: Exchange, status: int, clock: float) -> None:
        """A request was over at ``clock``; ``status`` is 499 where its client left first."""
        now = time.time() - (services.clock() - clock)
        measured = exchange.measured
        self.count += 1
        first = FirstToken.of(exchange)
        if first is not None:
            self.first_tokens.append(first)
        if measured is not None:
            self.tokens += measured.tokens
        if exchange.served:
            self.used[exchange.model.name] = now
        entry = entry_of(exchange, clock, now)
        del entry["state"]
        entry |= {
            "status": status,
            "ended": now,
            "prompt_tokens": prompt_tokens(exchange),
        }
        if services.settings.config.recent.capture:
            entry["request"] = _beginning(exchange)
        self.recent.append(entry)


def _beginning(exchange: Exchange) -> str | None:
    """Of what its engine was sent; None where its model has another engine by now."""
    try:
        content = exchange.call(exchange.model).content
    except ApiError:
        return None
    begin = b"".join(bytes(memoryview(piece)[:CAPTURED]) for piece in content)[:CAPTURED]
    return begin.decode("utf-8", "replace")


def entry_of(exchange: Exchange, clock: float, now: float) -> Entry:
    """A request as plain data, without its prompt. ``clock`` and ``now`` are the same moment."""
    measured = exchange.measured
    rate = exchange.rate
    if rate is None and measured is not None:
        rate = measured.rate
    seconds = clock - exchange.began
    return {
        "id": exchange.number,
        "path": exchange.path,
        "model": exchange.model.name,
        "key": exchange.caller.name,
        "stream": exchange.stream,
        "state": "answering" if exchange.served else "waiting",
        "seconds": round(seconds, 3),
        "began": round(now - seconds, 3),
        "queue_seconds": _rounded(exchange.queue_seconds),
        "switch_seconds": _rounded(exchange.switch_seconds),
        "ttft": _rounded(ttft(exchange)),
        "tokens": measured.tokens if measured is not None else None,
        "tokens_per_second": _rounded(rate, 1),
    }


def ttft(exchange: Exchange) -> float | None:
    """Seconds from the request to the engine until its first token; None until that has come."""
    measured = exchange.measured
    if measured is None or measured.first_token is None or exchange.sent is None:
        return None
    return measured.first_token - exchange.sent


def prompt_tokens(exchange: Exchange) -> int | None:
    """As the engine counted them, if it did."""
    return exchange.measured.prompt_tokens if exchange.measured is not None else None


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
