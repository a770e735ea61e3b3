"""Ten engines that misbehave, beside five good streams: nothing late, nothing lost, memory flat.

    python -m tests.soak.hostile [--seconds S] [--seed N]

Each engine gets one behaviour of `tests.hostile` after the other, at random. Every request must end
as its behaviour says, and so must the next request to the same model. The router's memory in the
last fifth is held against its memory in the second fifth, and the tokens of the good streams
against tokens of the same engine without the router.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.facts import machine, quantile, rss
from tests.hostile.behaviours import AFTER, BEHAVIOURS, IDLE, MAX_ANSWER
from tests.hostile.beside import GOOD, MAX_LATE, good_clients, good_engine, hostile_engine
from tests.hostile.outcome import request
from tests.integration.conftest import Router, wait_until
from tests.soak.router import judge

ENGINES = 10
PATIENCE = 60.0
"""Seconds in which each request must end."""
MAX_GROWN = 0.1
"""Of the router's memory."""


@dataclass
class Tally:
    """Requests by behaviour; the router's memory in MB, by moment; and what must not be."""

    done: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def hostile(router: Router, name: str, rng: random.Random, until: float, it: Tally) -> None:
    """One behaviour after the other on one engine."""
    while time.monotonic() < until:
        behaviour = rng.choice(BEHAVIOURS)
        for asked in (behaviour, AFTER):
            outcome = await request(router.port, asked, name, PATIENCE)
            # in a thread: to compare megabytes would hold up the other requests
            got = await asyncio.to_thread(outcome.words, asked)
            if got != asked.gets:
                it.wrong.append(f"{behaviour.name}, then {asked.name}: {got}")
        it.done[behaviour.name] += 1


async def watch_size(pid: int, it: Tally) -> None:
    while True:
        it.sizes.append((time.monotonic(), rss(pid)))
        await asyncio.sleep(0.2)


async def storm(router: Router, seconds: float, seed: int) -> Tally:
    """All engines at once."""
    assert router.process is not None
    tally, until = Tally(), time.monotonic() + seconds
    watching = asyncio.create_task(watch_size(router.process.pid, tally))
    engines = [
        hostile(router, f"bad{number}", random.Random(seed + number), until, tally)
        for number in range(ENGINES)
    ]
    await asyncio.gather(*engines)
    watching.cancel()
    return tally


def soak(router: Router, seconds: float, seed: int) -> bool:
    """Run it and print what was seen; whether all bounds hold."""
    good = good_engine(router)
    engines = {f"bad{number}": hostile_engine(router, f"bad{number}") for number in range(ENGINES)}
    limits = {"idle_timeout": IDLE, "max_answer": MAX_ANSWER}
    switch = {"timeout": 20, "stop_timeout": 5, "max_failures": 1000}
    router.write({GOOD: good, **engines}, requests=limits, switch=switch)
    router.start()
    wait_until(lambda: httpx.get(router.url + "/health").status_code == 200, "all is loaded")
    watch = good_clients(router, good["port"])
    began = time.monotonic()
    tally = asyncio.run(storm(router, seconds, seed))
    told, _ = watch.communicate()
    seen: dict[str, Any] = json.loads(told)
    wrong = [*tally.wrong, *seen["wrong"]]
    fifth = seconds / 5

    def size(part: int) -> float:
        begin = began + part * fifth
        return quantile([mb for at, mb in tally.sizes if begin <= at < begin + fifth], 0.5)

    grown = size(4) / size(1) - 1
    through, direct = quantile(seen["through"], 0.99), quantile(seen["direct"], 0.99)
    health, control = quantile(seen["health"], 0.5), quantile(seen["control"], 0.5)
    print(f"machine   {machine()}")
    print(f"hostile   {tally.done.total()} requests, {len(tally.done)} of {len(BEHAVIOURS)} kinds")
    print(
        f"streams   {seen['answers']} whole; p99 between tokens {through * 1e3:.1f} ms, without "
        f"the router {direct * 1e3:.1f} (bound: twice that and {MAX_LATE * 1e3:.0f} ms)"
    )
    print(f"/health   p50 {health * 1e3:.1f} ms, of the engine {control * 1e3:.1f} ms")
    print(
        f"memory    {size(1):.0f} MB, at the end {size(4):.0f} MB: {grown:+.1%} "
        f"(bound: {MAX_GROWN:.0%}); at most {max(mb for _, mb in tally.sizes):.0f} MB"
    )
    for each in wrong[:20]:
        print(f"WRONG: {each}")
    return not wrong and through < 2 * direct + MAX_LATE and grown < MAX_GROWN


def main() -> int:
    """0 when all bounds hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return judge(lambda router: soak(router, options.seconds, options.seed))


if __name__ == "__main__":
    sys.exit(main())
