"""The scheduler's shell: who is told of a lease, and when."""

from __future__ import annotations

import asyncio

import anyio
from anyio.lowlevel import checkpoint

from llm_router.scheduler.core import Core, Limits
from llm_router.scheduler.service import WOKEN_AT_ONCE, RunningSwitch, Scheduler


def test_thousands_who_get_a_lease_at_once_are_told_a_few_in_each_turn_of_the_loop() -> None:
    async def test() -> None:
        ready = anyio.Event()

        async def switch(_: RunningSwitch) -> None:
            await ready.wait()

        async with Scheduler(Core({"a": "g"}, Limits()), switch) as scheduler:
            tickets = [scheduler.request("a") for _ in range(1000)]
            ready.set()
            told, gone = 0, tickets[-1]
            with anyio.fail_after(10):
                while told < len(tickets) - 1:
                    await checkpoint()
                    now = sum(ticket.is_settled() for ticket in tickets)
                    assert now - told <= WOKEN_AT_ONCE
                    if told == 0 < now:
                        # it has its lease, and leaves before it is told
                        gone.close()
                    told = now
            assert not gone.is_settled()
            assert [ticket.is_settled() for ticket in tickets[:-1]] == [True] * 999
            assert scheduler.core.groups["g"].in_flight("a") == 999
            for ticket in tickets:
                ticket.close()
            assert not scheduler.core.groups["g"].held

    asyncio.run(test())


def test_who_asks_for_a_loaded_model_is_told_at_once() -> None:
    async def test() -> None:
        async def switch(_: RunningSwitch) -> None:
            raise AssertionError("there is nothing to switch")

        async with Scheduler(Core({"a": "g"}, Limits()), switch) as scheduler:
            scheduler.found_loaded("a")
            assert scheduler.request("a").is_settled()

    asyncio.run(test())


def test_a_switch_can_begin_where_the_event_loop_runs_no_task() -> None:
    """The end of a child process is seen in a callback of the loop's, and others may wait then."""

    async def test() -> None:
        async def switch(running: RunningSwitch) -> None:
            with running.scope:
                await checkpoint()

        async with Scheduler(Core({"a": "g", "b": "g"}, Limits()), switch) as scheduler:
            scheduler.found_loaded("a")
            lease, other = scheduler.request("a"), scheduler.request("b")
            asyncio.get_running_loop().call_soon(scheduler.lost, "a")
            with anyio.fail_after(5):
                await other.wait()
            lease.close()

    asyncio.run(test())
