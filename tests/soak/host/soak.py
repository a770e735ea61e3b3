"""Faults on a host, one after the other, and whether belief and world agree after each.

    python -m tests.soak.host.soak [--seconds S] [--seed N] [--only FAULT,…] [--quiet]

Runs on the host, as root, with the standard library alone; `run.py` boots and provisions one. Half
of the faults come while clients keep both device groups switching, half while nothing but one
stream runs in each group: there the next switch cannot hide what was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.client import Outcome, ask
from tests.soak.host.faults import (
    FAULTS,
    Fault,
    Host,
    Unfit,
    fetch,
    router_answers,
    systemctl,
    write_models,
)
from tests.soak.host.judge import (
    WITHIN,
    Belief,
    Sample,
    agreement,
    contradictions,
    overlaps,
)
from tests.soak.host.models import CONTEXT, GROUPS, MODELS, ROUTER_PORT, UNITS
from tests.soak.host.world import command

REPORTS = Path("/srv/reports")
DEADLINE = 45.0
"""Seconds for a request: many times what its switches, drains and failures can add up to."""
LOOK = 0.12
"""Seconds between two looks."""
AT_LEAST, AT_MOST = 1.5, 12.0
"""Seconds that are watched after a fault."""
CLIENTS = 6
WRONG = ("hung", "unclear", "cut")


def belief_of(status: dict[str, Any], health: dict[str, Any]) -> Belief:
    """What the router says, in one value."""
    models = status["models"].items()
    return Belief(
        {name: group["loaded"] for name, group in status["groups"].items()},
        {each["group"]: (each["model"], each["previous"]) for each in status["switches"]},
        {name: entry["state"] for name, entry in models},
        {name: entry["failure"]["count"] for name, entry in models if "failure" in entry},
        health.get("current_model"),
        {name: entry["group"] for name, entry in models},
        health.get("problem"),
    )


@dataclass
class Result:
    """A fault, and what came of it. ``agreed`` is in seconds, None for never."""

    fault: str
    detail: str
    busy: bool
    agreed: float | None
    violations: list[str]


@dataclass
class Soak:
    """One soak; `run` it once."""

    seconds: float
    host: Host
    quiet: bool = False
    """Whether clients never ask beside the faults."""
    samples: list[Sample] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    unfit: Counter[str] = field(default_factory=Counter)
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    """Requests of clients that have not ended."""

    async def run(self, faults: list[Fault]) -> None:
        """Each of them in turn, again and again, until the time is over."""
        await self.reset()
        look = asyncio.create_task(self.look())
        people = [asyncio.create_task(self.person(number)) for number in range(CLIENTS)]
        end = time.monotonic() + self.seconds
        number = 0
        while time.monotonic() < end:
            fault = faults[number % len(faults)]
            # each kind comes in both ways
            turn, place = divmod(number, len(faults))
            busy = (place + turn) % 2 == 1 and not self.quiet
            number += 1
            try:
                result = await self.one(fault, busy=busy)
            except Unfit as why:
                self.unfit[f"{fault.name}: {why}"] += 1
                continue
            self.results.append(result)
            self.say(result)
            if result.violations:
                await self.reset()
        self.ending.set()
        self.busy.set()
        await asyncio.gather(*people)
        look.cancel()

    async def one(self, fault: Fault, *, busy: bool) -> Result:
        """One fault. Raises `Unfit`."""
        host, streams = self.host, list[asyncio.Task[Outcome]]()
        await self.prepare(fault, busy=busy)
        if not busy:
            streams = [asyncio.create_task(self.stream(group)) for group in GROUPS]
            await asyncio.sleep(0.2)
        self.host.oracle.forget(time.monotonic())
        before, pids = host.belief, self.awake()
        first, asked = len(self.outcomes), len(self.host.oracle.wrongly)
        began = time.monotonic()
        wall = time.time()
        detail = await fault.inject(host)
        ended = time.monotonic()
        await self.watch(ended)
        violations = []
        agreed = agreement(self.samples, ended)
        if agreed is None or agreed > WITHIN:
            last = next((s.found for s in reversed(self.samples) if s.found), ("never quiet",))
            late = "never" if agreed is None else f"after {agreed:.1f} s"
            violations.append(f"agreed {late}: {'; '.join(last)}")
        elif not busy:
            violations += await self.probe()
        if not busy and fault.harmless and self.awake() != pids:
            violations.append(f"engines were {pids}, are {self.awake()}: the fault was harmless")
        violations += self.blamed(fault, before)
        allowed = [(began - 0.1, ended + WITHIN)] if fault.starts else []
        if fault.moves:
            allowed = [(0.0, ended + WITHIN)]
        violations += overlaps(self.host.oracle.all_held(), host.models, allowed)
        violations += [why for _, why in self.host.oracle.wrongly[asked:]]
        ended_streams = await asyncio.gather(*streams)
        self.outcomes += ended_streams
        cut = [o for o in ended_streams if o.kind != "answered" and not self.excused(o)]
        if fault.harmless:
            violations += [f"a stream ended in {o.kind} {o.code}: {o}" for o in cut]
        await self.calm()
        self.outcomes += host.asked
        host.asked.clear()
        violations += [
            f"a request ended as {outcome.kind} after {outcome.seconds:.1f} s: {outcome}"
            for outcome in self.outcomes[first:]
            if outcome.kind in WRONG and not (outcome.kind == "cut" and self.excused(outcome))
        ]
        result = Result(fault.name, detail, busy, agreed, list(dict.fromkeys(violations)))
        if violations:
            await self.keep(result, wall, began, ended)
        if fault.moves:
            await self.reset()
        self.samples.clear()
        return result

    # ---- before a fault

    async def reset(self) -> None:
        """A state that is known, whatever was before."""
        self.busy.clear()
        self.host.contexts = dict.fromkeys(MODELS, CONTEXT)
        self.host.groups = {name: entry.group for name, entry in MODELS.items()}
        began = time.monotonic()
        await systemctl("start", "dbus.socket", "llm-router-helper.socket")
        await systemctl("stop", "llm-router.service", *UNITS)
        write_models(self.host)
        await systemctl("start", "llm-router.service")
        await router_answers()
        self.host.away.append((began, time.monotonic()))
        self.samples.clear()

    async def prepare(self, fault: Fault, *, busy: bool) -> None:
        """A loaded model in each group and, as a rule, one that sleeps; clients where ``busy``."""
        await self.calm()
        await asyncio.gather(*(self.load(group, fault) for group in GROUPS))
        if busy:
            self.busy.set()
            await asyncio.sleep(self.host.rng.uniform(0.5, 1.5))
        self.samples.clear()
        await self.until(lambda: any(s.found == () for s in self.samples), 5)

    async def load(self, group: str, fault: Fault) -> None:
        """One after the other: the first of them sleeps in the end."""
        rng = self.host.rng
        names = [name for name in MODELS if MODELS[name].group == group]
        sleepers = [name for name in names if MODELS[name].sleeps]
        if fault.name == "router_killed_while_loading":
            names = sleepers
        first = rng.choice(sleepers)
        second = rng.choice([name for name in names if name != first])
        for name in (first, second):
            self.outcomes.append(await ask(ROUTER_PORT, name, deadline=DEADLINE))

    async def calm(self) -> None:
        """Nobody asks any more, and no request is under way."""
        self.busy.clear()
        await self.until(lambda: not self.under_way, DEADLINE + 5)

    async def until(self, fact: Callable[[], bool], seconds: float) -> bool:
        """Whether it came true in time."""
        until = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    # ---- after it

    async def watch(self, ended: float) -> None:
        """Until belief has been the world for some looks, or for as long as is watched at most."""
        while (now := time.monotonic()) < ended + AT_MOST:
            await asyncio.sleep(0.1)
            settled = [sample for sample in self.samples if sample.found is not None][-4:]
            quiet = len(settled) == 4 and all(not sample.found for sample in settled)
            if now > ended + AT_LEAST and quiet and settled[0].time > ended:
                return

    async def probe(self) -> list[str]:
        """Who may cause no switch is answered by what is loaded."""
        found = []
        for group, name in (self.host.belief.loaded if self.host.belief else {}).items():
            if name is None:
                continue
            outcome = await ask(ROUTER_PORT, name, deadline=DEADLINE, switch=False)
            if outcome.kind != "answered":
                found.append(f"group {group}: {name} is loaded, but: {outcome}")
        return found

    def blamed(self, fault: Fault, before: Belief | None) -> list[str]:
        """A fault of the host counts against no model."""
        now = self.host.belief
        if not fault.blameless or before is None or now is None:
            return []
        grown = [n for n, count in now.failures.items() if count > before.failures.get(n, 0)]
        return [f"a failure counts against {name}" for name in grown]

    def awake(self) -> dict[str, int]:
        """By model: the process that is awake."""
        units = self.host.world.units.values() if self.host.world else ()
        return {engine.serves: engine.pid for engine in units if engine.awake}

    def excused(self, outcome: Outcome) -> bool:
        """Whether the router was away while the request ran."""
        return any(
            outcome.sent < until and begin < outcome.ended + 0.2 for begin, until in self.host.away
        )

    async def keep(self, result: Result, wall: float, began: float, ended: float) -> None:
        """What happened around a violation, for whoever repairs it."""
        number = sum(bool(each.violations) for each in self.results) + 1
        lines = [f"{result.fault} ({result.detail}), {'busy' if result.busy else 'quiet'}"]
        lines += [f"VIOLATION {text}" for text in result.violations]
        lines += [f"fault from {wall:.3f} for {ended - began:.2f} s", ""]
        told: tuple[str, ...] | None = ()
        for sample in self.samples:
            if sample.found is not None and sample.found != told:
                told = sample.found
                lines.append(f"{wall + sample.time - began:.3f} {'; '.join(told) or 'agreed'}")
        lines += ["", *(f"awake: {held}" for held in self.host.oracle.all_held()), ""]
        journal = await command(
            *("journalctl", "--no-pager", "--output=short-unix", f"--since=@{wall - 3:.0f}"),
            check=False,
        )
        path = REPORTS / f"violation-{number:02}-{result.fault}.txt"
        path.write_text("\n".join([*lines, journal]))

    # ---- all the time

    async def look(self) -> None:
        """Take samples."""
        while True:
            sample = await self.sample()
            if sample is not None:
                self.samples.append(sample)
            await asyncio.sleep(LOOK)

    async def sample(self) -> Sample | None:
        """Belief before, the world, belief after. None when systemd cannot be asked."""
        try:
            before = await asyncio.to_thread(fetch, "/admin/status")
            health = await asyncio.to_thread(fetch, "/health")
            belief = belief_of(before, health)
            world = await self.host.oracle.look()
            after = belief_of(await asyncio.to_thread(fetch, "/admin/status"), health)
        except OSError:
            await self.host.oracle.look()
            return Sample(time.monotonic(), ("the router does not answer",))
        now = time.monotonic()
        if world is None:
            return None
        if after != belief:
            return Sample(now, None)
        self.host.belief, self.host.world = belief, world
        return Sample(now, contradictions(belief, world, self.host.models))

    async def person(self, number: int) -> None:
        """A client that asks while the soak is busy; one of three may cause no switch."""
        rng = random.Random(number)
        names = sorted(MODELS)
        while not self.ending.is_set():
            await self.busy.wait()
            if self.ending.is_set():
                return
            name = names[number % len(names)] if rng.random() < 0.5 else rng.choice(names)
            self.under_way += 1
            try:
                outcome = await ask(
                    ROUTER_PORT,
                    name,
                    deadline=DEADLINE,
                    stream=rng.random() < 0.6,
                    switch=number % 3 != 0,
                    max_tokens=rng.randint(1, 60),
                )
            finally:
                self.under_way -= 1
            self.outcomes.append(outcome)
            await asyncio.sleep(rng.uniform(0.3, 1.2))

    async def stream(self, group: str) -> Outcome:
        """Two seconds of tokens from what is loaded."""
        name = (self.host.belief.loaded if self.host.belief else {}).get(group)
        if name is None:
            raise Unfit(f"group {group} has nothing loaded")
        return await ask(
            ROUTER_PORT, name, deadline=DEADLINE, stream=True, switch=False, max_tokens=100
        )

    def say(self, result: Result) -> None:
        """One line now, so that who looks on sees it."""
        agreed = "never" if result.agreed is None else f"{result.agreed:.2f} s"
        how = "busy" if result.busy else "quiet"
        print(f"{time.strftime('%H:%M:%S')} {result.fault:<32}{how:<6}{agreed:>8}  {result.detail}")
        for text in result.violations:
            print(f"    VIOLATION {text[:600]}")
        sys.stdout.flush()


def report(soak: Soak) -> bool:
    """Print the table; whether nothing was found."""
    print(f"\n{'fault':<34}{'times':>6}{'p50':>8}{'max':>8}{'wrong':>7}")
    for fault in FAULTS:
        mine = [result for result in soak.results if result.fault == fault.name]
        if not mine:
            continue
        times = sorted(each.agreed if each.agreed is not None else AT_MOST for each in mine)
        wrong = sum(bool(each.violations) for each in mine)
        middle = statistics.median(times)
        print(f"{fault.name:<34}{len(mine):>6}{middle:>8.2f}{times[-1]:>8.2f}{wrong:>7}")
    kinds = Counter((o.kind, o.code if o.kind in ("error", "cut") else "") for o in soak.outcomes)
    print(f"\nrequests {len(soak.outcomes)}")
    for (kind, code), count in sorted(kinds.items()):
        print(f"  {kind:<9} {code:<24}{count:>7}")
    for why, count in sorted(soak.unfit.items()):
        print(f"not done {count} times: {why}")
    found = [each for each in soak.results if each.violations]
    print(f"{len(soak.results)} faults, {len(found)} with violations")
    (REPORTS / "results.json").write_text(
        json.dumps([vars(result) for result in soak.results], indent=1)
    )
    return not found and bool(soak.results)


def main() -> int:
    """0 when nothing was found that must not be."""
    given = argparse.ArgumentParser()
    given.add_argument("--seconds", type=float, default=300.0)
    given.add_argument("--seed", type=int, default=1)
    given.add_argument("--only", default="")
    given.add_argument("--quiet", action="store_true")
    options = given.parse_args()
    names = [name for name in options.only.split(",") if name]
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in names if name not in known]:
        given.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(known)}")
    faults = [known[name] for name in names] or FAULTS
    soak = Soak(options.seconds, Host(random.Random(options.seed)), options.quiet)
    asyncio.run(soak.run(faults))
    return 0 if report(soak) else 1


if __name__ == "__main__":
    sys.exit(main())
