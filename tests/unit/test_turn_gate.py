"""How many requests begin in one turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib

from llm_router.api.turn_gate import AT_ONCE, TurnGate


def test_few_begin_in_one_turn_and_callers_with_a_key_come_first() -> None:
    begun: list[str] = []

    async def request(gate: TurnGate, name: str, known: bool) -> None:
        await gate.enter(known=known)
        begun.append(name)

    async def crowd() -> list[int]:
        gate, a_turn = TurnGate(), []
        tasks = [
            asyncio.create_task(request(gate, f"stranger {number}", False))
            for number in range(5 * AT_ONCE)
        ]
        tasks.append(asyncio.create_task(request(gate, "known", True)))
        gone = tasks[AT_ONCE]
        before = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            if not gone.done() and len(begun) == AT_ONCE:
                gone.cancel()
            a_turn.append(len(begun) - before)
            before = len(begun)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return a_turn

    assert max(asyncio.run(crowd())) == AT_ONCE
    assert len(begun) == 5 * AT_ONCE, "all but the one that left"
    assert begun.index("known") <= 2 * AT_ONCE


def test_a_request_alone_does_not_wait() -> None:
    async def main() -> None:
        gate = TurnGate()
        for _ in range(3 * AT_ONCE):
            entering = gate.enter(known=False)
            with contextlib.suppress(StopIteration):
                entering.send(None)
                raise AssertionError("it waits")
            await asyncio.sleep(0)

    asyncio.run(main())
