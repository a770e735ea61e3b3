"""10,000 requests wait for one load: are all served, with how much memory, with what stalls?

    python -m bench.waiters [--clients N] [--load S]

A stall is a turn of the router's event loop that takes long: while it lasts, nobody else is served.
The router measures its own (`bench.turns`). What a turn took on the processor is the router's; the
rest went to other processes, of which this bench has some on the same machine.

Beside that a client asks `/health` on a kept connection all the time: what somebody notices who
comes in the middle of it, with all who came just before in front.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.facts import machine, quantile, raise_file_limit, rss
from llm_router.serve import FILES_APART
from tests.integration.conftest import Router
from tests.soak.client import Outcome, ask

CLIENTS = 10_000
LOAD = 12.0
AT_ONCE = 1000
"""Connections that are being opened at a time; the router's backlog is 2048."""
MOST_MB = 400
LONGEST_STALL = 0.1


def most_clients(files: int) -> int:
    """How many clients a router accepts that may open so many files; a few are `_watch`'s."""
    return (files - FILES_APART) // 2 - 8


@dataclass
class Result:
    """``answers``: how long each `/health` took. ``turns``: the longest, as `bench.turns` has them.

    Seconds and MB.
    """

    outcomes: list[Outcome]
    answers: list[float]
    turns: list[dict[str, float]]
    peak: float
    idle: float


async def _watch(port: int, stop: Connection, found: list[float]) -> None:
    request = b"GET /health HTTP/1.1\r\nhost: router\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not stop.poll():
        began = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        found.append(time.monotonic() - began)
        await asyncio.sleep(0.005)
    writer.close()


def watch(port: int, stop: Connection) -> None:
    """In a process of its own, so that what 10,000 clients do here is not in the figure."""
    found: list[float] = []
    asyncio.run(_watch(port, stop, found))
    stop.send(found)


def measure(router: Router, clients: int, load: float) -> Result:
    """Run it on a router that is not started yet."""
    router.write(
        {"cold": router.standin("cold", load=load, tokens=3)},
        switch={"timeout": 120, "stop_timeout": 5},
    )
    router.module = "bench.turns"
    router.start()
    assert router.process is not None
    pid = router.process.pid
    idle = rss(pid)
    here, there = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("spawn").Process(target=watch, args=(router.port, there))
    watcher.start()
    peak = idle

    async def crowd() -> list[Outcome]:
        nonlocal peak
        opening = asyncio.Semaphore(AT_ONCE)

        async def one() -> Outcome:
            async with opening:
                task = asyncio.create_task(ask(router.port, "cold", deadline=110))
                await asyncio.sleep(0.05)
            return await task

        tasks = [asyncio.create_task(one()) for _ in range(clients)]
        while not all(task.done() for task in tasks):
            peak = max(peak, rss(pid))
            await asyncio.wait(tasks, timeout=0.1)
        return [task.result() for task in tasks]

    outcomes = asyncio.run(crowd())
    here.send(None)
    answers = here.recv()
    watcher.join()
    router.stop()
    turns = json.loads(router.turns.read_text(encoding="utf-8"))
    return Result(outcomes, answers, turns, peak, idle)


def report(result: Result, clients: int, load: float) -> bool:
    """Print the table; whether all bounds are kept."""
    kinds = Counter((o.kind, o.status, o.code) for o in result.outcomes)
    answered = sum(1 for o in result.outcomes if o.kind == "answered")
    began = min(o.sent for o in result.outcomes)
    last = max(o.ended for o in result.outcomes) - began
    sizes = f"{result.peak:.0f} MB at most (bound: {MOST_MB}), {result.idle:.0f} idle"
    each = (result.peak - result.idle) * 1000 / clients
    longest = max(result.turns, key=lambda turn: turn["seconds"])
    print(f"machine        {machine()}")
    print(f"requests       {clients} for a model that loads {load:g} s")
    print(f"served         {answered} (bound: all), the last after {last:.1f} s")
    for (kind, status, code), count in sorted(kinds.items()):
        print(f"  {kind} {status or ''} {code}: {count}")
    print(f"memory         {sizes}; {each:.0f} kB a request")
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        print(f"/health {name}    {quantile(result.answers, part) * 1000:.1f} ms")
    print(
        f"longest stall  {longest['seconds'] * 1000:.0f} ms (bound: {LONGEST_STALL * 1000:.0f}), "
        f"{longest['cpu'] * 1000:.0f} of them on the processor"
    )
    kept = longest["seconds"] < LONGEST_STALL
    return answered == clients and result.peak < MOST_MB and kept


def main() -> int:
    """0 when all bounds are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--load", type=float, default=LOAD)
    options = parser.parse_args()
    limit = raise_file_limit(2 * options.clients + 1000)
    if options.clients > most_clients(limit):
        print(f"{limit} open files (ulimit -Hn) are enough for {most_clients(limit)} clients")
        return 1
    with tempfile.TemporaryDirectory() as directory:
        router = Router(Path(directory))
        try:
            result = measure(router, options.clients, options.load)
        finally:
            router.stop()
    return 0 if report(result, options.clients, options.load) else 1


if __name__ == "__main__":
    sys.exit(main())
