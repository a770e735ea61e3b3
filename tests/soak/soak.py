"""Hours of use in minutes: many clients, engines and routers that are killed, nothing that hangs.

    python -m tests.soak.soak [--seconds S] [--clients N]

Three parts. For the first fifth all is well and the router reaches its size. In the second, until
three fifths, engines are killed (SIGKILL) and stopped (SIGSTOP, then SIGCONT) at random, and its
memory at the end is held against its memory at the end of the first: ±10 %. In the third the
router itself is killed now and then too, and started again at once. Every request has a deadline
and must end in an answer or an error that a client can read; only while the router is away may a
connection break. The memory bound is of one router's life: what the last router has at its end,
seconds after its start, says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from bench.facts import machine, quantile, raise_file_limit, rss
from tests.integration.conftest import Router
from tests.soak.client import Outcome, ask
from tests.soak.router import judge

MODELS = {"a": "one", "b": "one", "c": "one", "d": "two", "e": "two", "f": "two"}
DEADLINE = 60.0
"""Seconds for a request: many times what its switches, drains and failures can add up to."""
CONFIG = {
    "scheduler": {"max_wait": 3, "drain_timeout": 4},
    "switch": {"timeout": 10, "stop_timeout": 1, "max_failures": 1000},
    "requests": {"idle_timeout": 5, "client_timeout": 10},
}


@dataclass
class Tally:
    """What happened. ``away``: when the router was, as (from, until)."""

    outcomes: list[Outcome] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    away: list[tuple[float, float]] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    """Of the first router: the moment since its start, and its memory in MB."""
    switches: float = 0.0
    grown: float = 0.0
    """How much larger the first router was at the end of its life, as a part of its size."""

    def excused(self, outcome: Outcome) -> bool:
        """Whether the router was killed while the request ran."""
        return any(
            outcome.sent < until and begin < outcome.ended + 0.1 for begin, until in self.away
        )

    def faults(self) -> list[str]:
        """What must not be."""
        found = []
        for outcome in self.outcomes:
            broken = outcome.kind == "cut" and not self.excused(outcome)
            if broken or outcome.kind in ("hung", "unclear"):
                found.append(f"{outcome.kind} after {outcome.seconds:.1f} s: {outcome}")
        return found


class Soak:
    """One soak; `run` it once."""

    def __init__(self, router: Router, seconds: float, clients: int, seed: int) -> None:
        self.router = router
        self.seconds = seconds
        self.clients = clients
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.ending = asyncio.Event()

    async def run(self) -> Tally:
        """Everything that was begun has ended afterwards."""
        models = {
            name: {**self.router.standin(name, load=0.3, interval=0.01, tokens=10), "group": group}
            for name, group in MODELS.items()
        }
        self.router.write(models, **CONFIG)
        self.router.start()
        people = [asyncio.create_task(self._person(number)) for number in range(self.clients)]
        watch = asyncio.create_task(self._watch())
        began = time.monotonic()
        await asyncio.sleep(self.seconds / 5)
        before = self._usual_size(began + self.seconds / 10)
        while time.monotonic() < began + self.seconds * 3 / 5:
            await asyncio.sleep(self.rng.uniform(0.5, 2.5))
            await self._hurt_an_engine()
        watch.cancel()
        after = self._usual_size(began + self.seconds / 2)
        self.tally.grown = after / before - 1
        await self._count_switches()
        while time.monotonic() < began + self.seconds:
            await asyncio.sleep(self.rng.uniform(2, 6))
            await self._kill_the_router()
            await self._hurt_an_engine()
        self.ending.set()
        await asyncio.gather(*people)
        await self._count_switches()
        return self.tally

    async def _person(self, number: int) -> None:
        rng = random.Random(number)
        names = sorted(MODELS)
        while not self.ending.is_set():
            # most stay with a model for a while, as people do
            model = names[number % len(names)] if rng.random() < 0.7 else rng.choice(names)
            stream = rng.random() < 0.6
            patience = DEADLINE if rng.random() < 0.95 else rng.uniform(0, 2)
            outcome = await ask(
                self.router.port,
                model,
                deadline=patience,
                stream=stream,
                max_tokens=rng.randint(1, 20),
            )
            if outcome.kind == "hung" and patience < DEADLINE:
                outcome.kind = "left"
            self.tally.outcomes.append(outcome)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), rng.uniform(0.2, 2))

    async def _watch(self) -> None:
        assert self.router.process is not None
        pid = self.router.process.pid
        while True:
            self.tally.sizes.append((time.monotonic(), rss(pid)))
            await asyncio.sleep(0.2)

    def _usual_size(self, since: float) -> float:
        """The median, as a garbage collection more or less makes a difference."""
        return quantile([size for moment, size in self.tally.sizes if moment >= since], 0.5)

    async def _hurt_an_engine(self) -> None:
        pids: list[int] = []
        # a record may go, or be written, while it is read
        with contextlib.suppress(OSError, ValueError):
            pids = sorted(self.router.engine_pids().values())
        if not pids:
            return
        pid = self.rng.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            if self.rng.random() < 0.7:
                os.killpg(pid, signal.SIGKILL)
                self.tally.kills["engine SIGKILL"] += 1
            else:
                os.killpg(pid, signal.SIGSTOP)
                self.tally.kills["engine SIGSTOP"] += 1
                # past idle_timeout, or not
                await asyncio.sleep(self.rng.choice((0.5, 7)))
                os.killpg(pid, signal.SIGCONT)

    async def _kill_the_router(self) -> None:
        await self._count_switches()
        began = time.monotonic()
        await asyncio.to_thread(self.router.stop, signal.SIGKILL)
        await asyncio.to_thread(self.router.start)
        self.tally.away.append((began, time.monotonic()))
        self.tally.kills["router SIGKILL"] += 1

    async def _count_switches(self) -> None:
        """Of this router's life: the counter begins anew with the next."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(self.router.url + "/metrics", timeout=30)).text
        lines = [line for line in text.splitlines() if line.startswith("llm_router_switches_total")]
        self.tally.switches += sum(float(line.rpartition(" ")[2]) for line in lines)


def report(tally: Tally, seconds: float, clients: int) -> bool:
    """Print the table; whether all is as it must be."""
    outcomes = tally.outcomes
    print(f"machine      {machine()}")
    print(f"use          {clients} clients, {len(MODELS)} models, 2 groups, {seconds:g} s")
    print(f"requests     {len(outcomes)}")
    kinds = Counter((o.kind, o.code if o.kind in ("error", "cut") else "") for o in outcomes)
    for (kind, code), count in sorted(kinds.items()):
        print(f"  {kind:<9} {code:<24}{count:>7}")
    print(f"switches     {tally.switches:.0f}")
    print(f"killed       {', '.join(f'{what} {n}' for what, n in sorted(tally.kills.items()))}")
    waits = [o.first_byte for o in outcomes if o.kind == "answered"]
    print(f"first byte   p50 {quantile(waits, 0.5):.2f} s, p99 {quantile(waits, 0.99):.2f} s")
    print(f"longest      {max(o.seconds for o in outcomes):.1f} s (deadline {DEADLINE:g})")
    print(f"memory       {tally.sizes[-1][1]:.0f} MB, {tally.grown:+.1%} in its life (bound: 10 %)")
    faults = tally.faults()
    for fault in faults[:10]:
        print(f"WRONG: {fault}")
    return not faults and abs(tally.grown) <= 0.1


def main() -> int:
    """0 when all is as it must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    raise_file_limit(4 * options.clients + 1000)

    def soak(router: Router) -> bool:
        tally = asyncio.run(Soak(router, options.seconds, options.clients, options.seed).run())
        return report(tally, options.seconds, options.clients)

    return judge(soak)


if __name__ == "__main__":
    sys.exit(main())
