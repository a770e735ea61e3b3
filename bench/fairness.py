"""Two models and a client for each at every turn: how many switches, and how long a wait?

    python -m bench.fairness [--requests N] [--max-wait S]

The same 2 x N requests, sent alternately, are counted as first come, first served would have
them: a switch wherever one asks for another model than the one before it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.facts import machine, quantile
from tests.integration.conftest import Router
from tests.soak.client import Outcome, ask

REQUESTS = 40
LOAD = 0.3
ANSWER = 0.2
SLACK = 0.5
"""Seconds for what is neither load nor drain: starting a process, a busy machine."""


@dataclass
class Result:
    """The outcomes in the order of their sending; loads as the engines counted them."""

    outcomes: list[Outcome]
    loads: int
    longest_switch: float
    max_wait: float

    @property
    def first_come(self) -> int:
        """The loads of a router that serves them in the order in which they came."""
        order = [outcome.model for outcome in sorted(self.outcomes, key=lambda o: o.sent)]
        return 1 + sum(1 for one, next_ in itertools.pairwise(order) if one != next_)

    @property
    def longest_wait(self) -> float:
        return max(outcome.first_byte for outcome in self.outcomes)

    @property
    def bound(self) -> float:
        """What holds for two models: see tests/unit/scheduler_simulation.py."""
        switch = ANSWER + self.longest_switch
        return max(self.max_wait, switch) + switch + ANSWER + SLACK


def measure(router: Router, requests: int = REQUESTS, max_wait: float = 2.0) -> Result:
    """Run it on a router that is not started yet."""
    tokens = 4
    models = {
        name: router.standin(name, load=LOAD, interval=ANSWER / tokens, tokens=tokens)
        for name in ("a", "b")
    }
    router.write(models, scheduler={"max_wait": max_wait, "drain_timeout": 10})
    router.start()

    async def crowd() -> list[Outcome]:
        tasks = []
        for _ in range(requests):
            for model in ("a", "b"):
                tasks.append(asyncio.create_task(ask(router.port, model, deadline=120)))
                # the pace of arrivals: half an answer's time
                await asyncio.sleep(ANSWER / 4)
        return list(await asyncio.gather(*tasks))

    outcomes = asyncio.run(crowd())
    lines = router.events.read_text(encoding="utf-8").splitlines()
    starts = [line for line in lines if line.split(" ")[1] == "start"]
    longest = max(entry["seconds"] for entry in _switches(router))
    return Result(outcomes, len(starts), longest, max_wait)


def _switches(router: Router) -> list[dict[str, float]]:
    log = (router.dir / "router.log").read_text(encoding="utf-8").splitlines()
    ended = [line for line in log if " msg=switch_ended " in line and " outcome=ok" in line]
    said = [dict(pair.split("=", 1) for pair in line.split()) for line in ended]
    return [{"seconds": float(entry["seconds"])} for entry in said]


def report(result: Result) -> bool:
    """Print the table; whether the bounds are kept."""
    answered = sum(1 for outcome in result.outcomes if outcome.kind == "answered")
    waits = [outcome.first_byte for outcome in result.outcomes]
    part = result.loads / result.first_come
    print(f"machine            {machine()}")
    print(f"requests           {len(waits)}, alternately for two models; {answered} answered")
    print(f"loads              {result.loads}; first come, first served: {result.first_come}")
    print(f"                   {part:.0%} (bound: under 50 %)")
    print(f"wait and answer    p50 {quantile(waits, 0.5):.2f} s, longest {max(waits):.2f} s")
    print(f"bound              {result.bound:.2f} s: max_wait + drain + load + the answer itself")
    return (
        answered == len(waits)
        and 2 * result.loads < result.first_come
        and result.longest_wait <= result.bound
    )


def main() -> int:
    """0 when the bounds are kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--max-wait", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        router = Router(Path(directory))
        try:
            result = measure(router, options.requests, options.max_wait)
        finally:
            router.stop()
    return 0 if report(result) else 1


if __name__ == "__main__":
    sys.exit(main())
