"""The router's own requests to engines: probes, a first token, calls that free or take a device.

An engine may be broken or mean harm, so an answer is bounded in size and is never decompressed, and
one engine cannot use up the connections to others. The deadline for all of an answer is the
caller's: httpx counts from one byte to the next, and an engine may send one byte at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

MOST_BYTES = 1 << 20
"""Bytes of a whole answer, or of one line of a stream."""
AT_ONCE = 8
"""Requests to one engine at the same time; more wait for these."""
NO_LIMIT = httpx.Limits(max_connections=None, max_keepalive_connections=100)
"""`AT_ONCE` is the bound: one for all engines together would let a hung one use up all of it."""


class AnswerRefused(Exception):
    """The answer is not one that is read; the text says why."""


@dataclass(frozen=True)
class OwnAnswer:
    """A whole answer."""

    status: int
    body: bytes


class Streamed:
    """An answer whose body is read as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code

    async def whole(self) -> bytes:
        """The body. Raises `AnswerRefused`, httpx.HTTPError."""
        body = bytearray()
        async for part in self._response.aiter_bytes():
            body += part
            if len(body) > MOST_BYTES:
                raise AnswerRefused(f"sent more than {MOST_BYTES} bytes")
        return bytes(body)

    async def lines(self) -> AsyncIterator[bytes]:
        """Each line without its end. Raises `AnswerRefused`, httpx.HTTPError."""
        rest = bytearray()
        async for part in self._response.aiter_bytes():
            start = len(rest)
            rest += part
            if rest.find(b"\n", start) >= 0:
                *lines, last = bytes(rest).split(b"\n")
                rest = bytearray(last)
                for line in lines:
                    yield line.removesuffix(b"\r")
            if len(rest) > MOST_BYTES:
                raise AnswerRefused(f"sent a line of more than {MOST_BYTES} bytes")
        if rest:
            yield bytes(rest)


class EngineClient:
    """Requests by ``client``, which has `NO_LIMIT` on its connections."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._turns: dict[str, anyio.Semaphore] = {}
        """By engine."""

    async def ask(
        self, method: str, base_url: str, path: str, headers: Mapping[str, str], body: Any = None
    ) -> OwnAnswer:
        """A whole answer. Raises `AnswerRefused`, httpx.HTTPError."""
        async with self.stream(method, base_url, path, headers, body) as answer:
            return OwnAnswer(answer.status, await answer.whole())

    @asynccontextmanager
    async def stream(
        self, method: str, base_url: str, path: str, headers: Mapping[str, str], body: Any = None
    ) -> AsyncIterator[Streamed]:
        """An answer as soon as its head is here. Raises `AnswerRefused`, httpx.HTTPError."""
        turn = self._turns.setdefault(base_url, anyio.Semaphore(AT_ONCE))
        async with (
            turn,
            self._client.stream(
                method,
                base_url + path,
                headers={**headers, "accept-encoding": "identity"},
                json=body,
                timeout=httpx.Timeout(None),
            ) as response,
        ):
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise AnswerRefused("sent a compressed body, for which the router did not ask")
            yield Streamed(response)
