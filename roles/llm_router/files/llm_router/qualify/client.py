"""The router over its admin socket, as `run` uses it: administration, and requests like a client's.

A process that can open the socket may administer. Its requests go through the same queue and the
same proxy as those of the public port.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

from llm_router.json_codec import from_json, to_json
from llm_router.qualify.measure import Answer, StreamReader, read_whole
from llm_router.qualify.report import clean

PROMPT_SECONDS = 30.0
"""For calls that do not wait for a model."""
LARGEST = 16 << 20
"""Bytes of an answer that are read: an engine may send without end."""
HEADERS = {"content-type": "application/json", "x-llm-router-status": "off"}


class CallFailed(Exception):
    """The router did not do what it was asked. ``status``: 0 where it did not answer at all."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(clean(message))
        self.status = status
        self.code = code


class RouterClient:
    """Calls of the router. ``seconds``: how long a call may take; None: no limit."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def opened(cls, socket: str) -> AsyncIterator[RouterClient]:
        """A client of the admin socket, for the block."""
        transport = httpx.AsyncHTTPTransport(
            uds=socket, limits=httpx.Limits(max_connections=None, max_keepalive_connections=4)
        )
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://router",
            timeout=httpx.Timeout(None),
            headers=HEADERS,
        ) as http:
            yield cls(http)

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = PROMPT_SECONDS,
    ) -> dict[str, Any]:
        """The answer's JSON. Raises `CallFailed`."""
        content = to_json(body) if body is not None else None
        try:
            with anyio.fail_after(seconds):
                answer = await self._http.request(method, path, params=query, content=content)
        except TimeoutError:
            raise CallFailed(f"{method} {path}: no answer within {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise CallFailed(f"{method} {path}: {_said(error)}") from error
        try:
            said = from_json(answer.content, strict=True)
        except ValueError:
            said = None
        if answer.status_code == 200 and isinstance(said, dict):
            return said
        told = said.get("error") if isinstance(said, dict) else None
        told = told if isinstance(told, dict) else {}
        message = str(told.get("message") or f"{method} {path}: HTTP {answer.status_code}")
        raise CallFailed(message, answer.status_code, str(told.get("code") or ""))

    async def ask(self, path: str, body: Mapping[str, Any], seconds: float) -> Answer:
        """A request that is not streamed. Never raises: an error is in the answer."""
        began, answer = time.monotonic(), Answer()
        try:
            with anyio.fail_after(seconds):
                async with self._http.stream("POST", path, content=to_json(body)) as got:
                    answer.status = got.status_code
                    read_whole(answer, b"".join([piece async for piece in _pieces(got)]))
        except TimeoutError:
            answer.late, answer.error = True, f"no answer within {seconds:.0f} s"
        except _TooLarge as error:
            answer.error = str(error)
        except httpx.HTTPError as error:
            answer.error = f"the connection ended: {_said(error)}"
        answer.error = clean(answer.error)
        answer.seconds = time.monotonic() - began
        answer.first_seconds = answer.seconds
        return answer

    async def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        seconds: float,
        first: anyio.Event | None = None,
    ) -> Answer:
        """A streamed request; ``first`` is set at its first text, or when it has ended without
        any. Never raises: an error is in the answer."""
        began, reader = time.monotonic(), StreamReader()
        answer = reader.answer
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            with anyio.fail_after(seconds):
                async with self._http.stream("POST", path, content=to_json(sent)) as got:
                    answer.status = got.status_code
                    if got.status_code != 200:
                        read_whole(answer, b"".join([piece async for piece in _pieces(got)]))
                    else:
                        async for piece in _pieces(got):
                            reader.piece(piece, time.monotonic() - began)
                            if first is not None and answer.first_seconds is not None:
                                first.set()
        except _TooLarge as error:
            answer.error = answer.error or str(error)
        except TimeoutError:
            answer.late = True
            answer.error = answer.error or f"not over within {seconds:.0f} s"
        except httpx.HTTPError as error:
            answer.error = answer.error or f"the connection ended: {_said(error)}"
        finally:
            if first is not None:
                first.set()
        answer.error = clean(answer.error)
        return reader.ended(time.monotonic() - began)


class _TooLarge(Exception):
    """An answer has more bytes than are read; the message says so."""


async def _pieces(got: httpx.Response) -> AsyncIterator[bytes]:
    """The answer as it comes. Raises `_TooLarge`."""
    size = 0
    async for piece in got.aiter_bytes():
        size += len(piece)
        if size > LARGEST:
            raise _TooLarge(f"the answer has more than {LARGEST >> 20} MiB")
        yield piece


def _said(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
