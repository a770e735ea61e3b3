"""One call for all who need its result."""

from __future__ import annotations

import asyncio

import pytest

from llm_router.api.shared_call import SharedCall


def test_callers_at_the_same_moment_share_one_call_and_a_later_one_has_its_own() -> None:
    calls = 0

    async def ask() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return calls

    async def main() -> None:
        shared = SharedCall(ask)
        first = asyncio.create_task(shared())
        others = [asyncio.create_task(shared()) for _ in range(500)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == [1] * 500
        assert await shared() == 2

    asyncio.run(main())


def test_an_error_reaches_each_caller_and_is_not_kept() -> None:
    async def ask() -> int:
        raise OSError("gone")

    async def main() -> None:
        shared = SharedCall(ask)
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                await shared()

    asyncio.run(main())
