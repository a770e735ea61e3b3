"""Clients of a fleet that never stop asking, and what became of their requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE = 300.0


@dataclass(frozen=True)
class Failure:
    """A request that was not answered as it should have been; times are those of time.monotonic."""

    stream: bool
    began: float
    ended: float
    what: str


@dataclass
class Load:
    """Two clients for each model, one of which streams; use as a context manager."""

    url: str
    key: str
    models: Sequence[str]
    served: dict[str, int] = field(default_factory=dict)
    wrong: list[Failure] = field(default_factory=list)
    kills: list[tuple[float, float]] = field(default_factory=list)
    slowest: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Load:
        self.served = dict.fromkeys(self.models, 0)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._over.set()
        self._thread.join(PATIENCE + 10)

    def killed(self, began: float, ended: float) -> None:
        """A router was killed between these moments: the streams that it had begun are lost."""
        self.kills.append((began, ended))

    @property
    def failed(self) -> list[str]:
        """What is wrong, other than streams that a kill has cut off."""
        return [
            failure.what
            for failure in self.wrong
            if not failure.stream
            or not any(
                failure.began < ended and began < failure.ended < ended + 1
                for began, ended in self.kills
            )
        ]

    async def _all(self) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(timeout=PATIENCE, headers=headers) as client:
            await asyncio.gather(
                *(self._one(client, model, way) for model in self.models for way in (True, False))
            )

    async def _one(self, client: httpx.AsyncClient, model: str, stream: bool) -> None:
        body = {
            "messages": [{"role": "user", "content": "Are you there?"}],
            "model": model,
            "max_tokens": 8,
            "stream": stream,
        }
        while not self._over.is_set():
            began = time.monotonic()
            wrong = await self._ask(client, body)
            ended = time.monotonic()
            seconds = ended - began
            self.slowest = max(self.slowest, seconds)
            if wrong is None:
                self.served[model] += 1
            else:
                at = time.strftime("%H:%M:%S")
                what = f"{at} {model} {stream=} after {seconds:.1f} s: {wrong}"
                self.wrong.append(Failure(stream, began, ended, what))
            await asyncio.sleep(0.6)

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str | None:
        """What is wrong with the answer, if anything."""
        try:
            answer = await client.post(f"{self.url}/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            return repr(error)
        text = answer.text
        if answer.status_code != 200:
            return f"{answer.status_code} {text[-300:]}"
        if body["stream"] and ('"error"' in text or not text.rstrip().endswith("[DONE]")):
            return f"a stream that broke off: {text[-300:]}"
        if not body["stream"] and answer.json()["model"] != body["model"]:
            return f"another model answered: {text[:300]}"
        return None
