"""One call under way for all who need its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedCall(Generic[T]):
    """Calls ``ask`` once at a time; a caller that comes meanwhile gets the same result."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._under_way: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """The result, or what ``ask`` raises. A caller that is cancelled ends no other's."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._run())
        return await asyncio.shield(self._under_way)

    async def _run(self) -> T:
        return await self._ask()
