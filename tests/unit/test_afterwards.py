"""What is done when nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from llm_router.api.afterwards import AT_ONCE, LATER, Afterwards


async def until(done: list[int], count: int) -> None:
    async with asyncio.timeout(5):
        while len(done) < count:
            await asyncio.sleep(LATER)


def test_it_is_done_soon_and_in_order() -> None:
    async def run() -> None:
        afterwards, done = Afterwards(), list[int]()
        for number in range(3):
            afterwards.do(partial(done.append, number))
        await asyncio.sleep(0)
        assert done == [], "whoever asks next comes first"
        await until(done, 3)
        afterwards.do(partial(done.append, 3))
        await until(done, 4)
        assert done == [0, 1, 2, 3]

    asyncio.run(run())


def test_whoever_asks_is_told_all() -> None:
    async def run() -> None:
        afterwards, done = Afterwards(), list[int]()
        afterwards.do(partial(done.append, 1))
        afterwards.now()
        assert done == [1]
        afterwards.do(partial(done.append, 2))
        await until(done, 2)

    asyncio.run(run())


def test_many_are_done_in_several_turns() -> None:
    async def run() -> None:
        afterwards, done = Afterwards(), list[int]()
        most, before = 0, 0

        async def look() -> None:
            nonlocal most, before
            while len(done) < 10 * AT_ONCE:
                most, before = max(most, len(done) - before), len(done)
                await asyncio.sleep(0)

        for number in range(10 * AT_ONCE):
            afterwards.do(partial(done.append, number))
        async with asyncio.timeout(5):
            await look()
        assert done == list(range(10 * AT_ONCE))
        assert most <= AT_ONCE

    asyncio.run(run())


def test_a_note_that_fails_is_logged_and_the_others_are_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        afterwards, done = Afterwards(), list[int]()
        afterwards.do(list[int]().pop)
        afterwards.do(partial(done.append, 1))
        with caplog.at_level(logging.ERROR):
            await until(done, 1)
        assert "could not be noted" in caplog.text

    asyncio.run(run())
