"""Strangers: 500 connections without a key that try to use up the router, beside good streams.

    python -m tests.soak.strangers [--seconds S] [--connections N]

A process of its own opens the connections and tries, over and over, everything that costs a
server something before it knows its caller: trailers, chunk extensions, heads that are huge, slow
or have thousands of fields, bodies for every part of the API that flood or trickle, JSON and
forms, requests sent ahead, answers that are not read.

Meanwhile clients with a key stream answers, and a health check asks once every 20 ms. Bounds: the
router's memory, the longest turn of its event loop in processor time, the health check's time, and
the pace of the streams against their pace before.

The strangers' process has a lower priority: on the same two processors it would otherwise be the
kernel's scheduler that is measured. The health check's time is still that of the whole machine, so
its bound of 50 ms holds on a quiet one; the turn's processor time does not depend on others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import yaml

from bench.facts import machine, most_rss, quantile, raise_file_limit
from tests.integration.conftest import ROOT, Router
from tests.soak.client import CHAT
from tests.soak.router import judge

KEY = "a good key of this soak"
STREAMS = 4
MAX_RSS = 300.0
"""MB."""
MAX_HEALTH = 0.05
"""Seconds, 99 % of health checks."""
MAX_TURN = 0.015
"""Seconds on the processor of the longest turn of the event loop while strangers are here."""
MIN_PACE = 0.9
"""The part of their former pace that the streams keep."""
CALM = 3.0
"""Seconds before the strangers come, for the pace."""
PATIENCE = 3.0
"""Seconds for which a stranger stays with a slow attack."""
FLOOD = 16 * 1024 * 1024
"""Bytes that a stranger sends at most on one connection."""
PIECE = 64 * 1024
LOWER = 10
"""The niceness of the strangers' process."""
PATHS = (
    CHAT,
    "/v1/embeddings",
    "/v1/audio/transcriptions",
    "/upstream/a/v1/x",
    "/admin/switch",
    "/admin/reload",
    "/v1/models",
    "/metrics",
    "/health",
    "/nowhere",
)

Writer = asyncio.StreamWriter
Attack = Callable[[Writer, random.Random], Awaitable[None]]


def head(path: str, *fields: str, method: str = "POST", host: str = "host: x") -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", host, *fields, "", ""]).encode()


async def flood(writer: Writer, piece: bytes) -> None:
    """Send the same again and again, until the router has had enough."""
    for _ in range(FLOOD // len(piece)):
        writer.write(piece)
        await writer.drain()


async def trickle(writer: Writer, piece: bytes) -> None:
    """Send a little again and again."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.2)


async def trailers(writer: Writer, rng: random.Random) -> None:
    writer.write(head(rng.choice(PATHS), "transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n")
    await flood(writer, b"x-trailer: " + b"y" * 1000 + b"\r\n")


async def endless_trailer(writer: Writer, rng: random.Random) -> None:
    writer.write(head(rng.choice(PATHS), "transfer-encoding: chunked") + b"0\r\nx: ")
    await flood(writer, b"y" * PIECE)


async def chunk_extension(writer: Writer, rng: random.Random) -> None:
    writer.write(head(rng.choice(PATHS), "transfer-encoding: chunked") + b"1;")
    await flood(writer, b"y" * PIECE)


async def huge_head(writer: Writer, rng: random.Random) -> None:
    writer.write(b"POST " + rng.choice(PATHS).encode() + b" HTTP/1.1\r\nhost: x\r\nx: ")
    await flood(writer, b"y" * PIECE)


async def huge_url(writer: Writer, rng: random.Random) -> None:
    writer.write(b"GET /")
    await flood(writer, b"y" * PIECE)


async def many_fields(writer: Writer, rng: random.Random) -> None:
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
    await flood(writer, b"a: b\r\n" * 1000)


async def slow_head(writer: Writer, rng: random.Random) -> None:
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nx: ")
    await trickle(writer, b"y")


async def nothing(writer: Writer, rng: random.Random) -> None:
    await asyncio.sleep(PATIENCE)


async def body(writer: Writer, rng: random.Random) -> None:
    writer.write(head(rng.choice(PATHS), f"content-length: {2**31}"))
    await flood(writer, b"x" * PIECE)


async def wrong_key(writer: Writer, rng: random.Random) -> None:
    key = f"authorization: Bearer {rng.random()}"
    writer.write(head(rng.choice(PATHS), key, f"content-length: {2**31}"))
    await flood(writer, b"x" * PIECE)


async def json_body(writer: Writer, rng: random.Random) -> None:
    fields = ("content-type: application/json", "transfer-encoding: chunked")
    writer.write(head(rng.choice(PATHS), *fields))
    await flood(writer, b"%x\r\n%b\r\n" % (3 * 20_000, b"{}," * 20_000))


async def form(writer: Writer, rng: random.Random) -> None:
    kind = f"content-type: multipart/form-data; boundary={'b' * 10_000}"
    writer.write(head("/v1/audio/transcriptions", kind, f"content-length: {2**31}"))
    await flood(writer, b"--" + b"b" * 10_000 + b"\r\n" + b"x;" * 20_000)


async def slow_body(writer: Writer, rng: random.Random) -> None:
    writer.write(head(rng.choice(PATHS), "content-length: 100000"))
    await trickle(writer, b" ")


async def ahead(writer: Writer, rng: random.Random) -> None:
    writer.write(head("/health", method="GET") * 2000)
    await trickle(writer, b"")


async def unread(writer: Writer, rng: random.Random) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(20):
        writer.write(head("/openapi.json", method="GET"))
    await trickle(writer, b"")


async def upgrade(writer: Writer, rng: random.Random) -> None:
    fields = ("connection: Upgrade", "upgrade: h2c", f"content-length: {2**31}")
    writer.write(head(rng.choice(PATHS), *fields))
    await flood(writer, head("/health", method="GET") * 500)


async def pages(writer: Writer, rng: random.Random) -> None:
    """What needs no key, one after the other, as fast as it is answered."""
    paths = ("/", "/ui/app.js", "/ui/nothing", "/openapi.json", "/health?model=a", "/health")
    reader = writer.transport.get_protocol()._stream_reader  # type: ignore[attr-defined]
    for _ in range(10):
        writer.write(head(rng.choice(paths), method="GET"))
        answer = await reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(size)
    await asyncio.sleep(PATIENCE)


ATTACKS: tuple[Attack, ...] = (
    trailers,
    endless_trailer,
    chunk_extension,
    huge_head,
    huge_url,
    many_fields,
    slow_head,
    nothing,
    body,
    wrong_key,
    json_body,
    form,
    slow_body,
    ahead,
    unread,
    upgrade,
    pages,
)


async def stranger(
    port: int, number: int, until: float, attacks: list[Attack], tried: Counter[str]
) -> None:
    """One connection after another, until the end."""
    rng = random.Random(number)
    await asyncio.sleep(rng.uniform(0, 1))
    while time.monotonic() < until:
        attack = rng.choice(attacks)
        with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.wait_for(attack(writer, rng), 2 * PATIENCE)
                tried[f"{attack.__name__}, to its end"] += 1
            finally:
                writer.transport.abort()
                tried[attack.__name__] += 1


async def attack_all(port: int, seconds: float, connections: int, only: str) -> Counter[str]:
    """Everything that strangers try; how often."""
    until, tried = time.monotonic() + seconds, Counter[str]()
    attacks = [attack for attack in ATTACKS if only in ("", attack.__name__)]
    people = [stranger(port, number, until, attacks, tried) for number in range(connections)]
    await asyncio.gather(*people)
    return tried


@dataclass
class Seen:
    """What good clients saw: moments of tokens, and seconds of health checks."""

    tokens: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def pace(self, begin: float, end: float) -> float:
        """Tokens a second."""
        return sum(begin <= moment < end for moment in self.tokens) / (end - begin)


async def good_stream(router: Router, seen: Seen, ending: asyncio.Event) -> None:
    """One answer after the other."""
    asked = {"model": "a", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {KEY}", "x-llm-router-status": "off"}
    async with httpx.AsyncClient(base_url=router.url, headers=headers, timeout=20) as client:
        while not ending.is_set():
            try:
                async with client.stream("POST", CHAT, json=asked) as answer:
                    if answer.status_code != 200:
                        seen.wrong.append(f"a stream got {answer.status_code}")
                        return
                    async for line in answer.aiter_lines():
                        if '"content"' in line:
                            seen.tokens.append(time.monotonic())
                        if ending.is_set():
                            return
            except httpx.HTTPError as error:
                seen.wrong.append(f"a stream broke: {error!r}")
                return


async def health_checks(router: Router, seen: Seen, ending: asyncio.Event) -> None:
    """As a balancer asks: a connection for each."""
    while not ending.is_set():
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(head("/health", "connection: close", method="GET"))
            got = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            if not got.startswith(b"HTTP/1.1 200"):
                seen.wrong.append(f"/health: {got[:30]!r}")
        except (OSError, asyncio.TimeoutError) as error:
            seen.wrong.append(f"/health: {error!r}")
        seen.health.append(time.monotonic() - began)
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def good_clients(router: Router, seen: Seen) -> AsyncIterator[None]:
    ending = asyncio.Event()
    tasks = [asyncio.create_task(good_stream(router, seen, ending)) for _ in range(STREAMS)]
    tasks.append(asyncio.create_task(health_checks(router, seen, ending)))
    try:
        yield
    finally:
        ending.set()
        await asyncio.gather(*tasks)


def turns_between(router: Router, begin: float, end: float) -> float:
    """Seconds on the processor of the longest turn that ended between two moments of `time.time`.
    The router has stopped."""
    turns = json.loads(router.turns.read_text(encoding="utf-8"))
    return max((turn["cpu"] for turn in turns if begin <= turn["at"] <= end), default=0.0)


async def soak(
    router: Router, seconds: float, connections: int, only: str = "", *, max_health: float
) -> bool:
    """Run it and print the table; whether all bounds hold."""
    router.module = "bench.turns"
    router.write(
        {"a": {**router.standin("a", interval=0.02, tokens=200), "preload": True}},
        requests={"header_timeout": 2, "client_timeout": 3},
    )
    keys = [{"name": "good", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}), encoding="utf-8")
    router.start()
    assert router.process is not None
    seen = Seen()
    async with good_clients(router, seen):
        while not seen.tokens and not seen.wrong:
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        calm = time.monotonic()
        await asyncio.sleep(CALM)
        quiet, seen.health = quantile(seen.health, 0.99), []
        storm, came = time.monotonic(), time.time()
        strangers = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.soak.strangers",
            *("--attack", str(router.port)),
            *("--seconds", str(seconds), "--connections", str(connections), "--only", only),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # asyncio warns of each write to a closed connection
            cwd=ROOT,
        )
        told, _ = await strangers.communicate()
        over, left = time.monotonic(), time.time()
    tried = json.loads(told)
    size = most_rss(router.process.pid)
    router.stop()
    turn = turns_between(router, came, left)
    before, during = seen.pace(calm, storm), seen.pace(storm, over)
    p99 = quantile(seen.health, 0.99)
    print(f"machine      {machine()}")
    print(f"strangers    {connections} connections, {seconds:g} s")
    for name in sorted(one for one in tried if ", " not in one):
        print(f"  {name:<18}{tried[name]:>7}  to its end {tried.get(f'{name}, to its end', 0):>5}")
    print(f"memory       {size:.0f} MB at most (bound: {MAX_RSS:.0f})")
    print(
        f"/health      p50 {quantile(seen.health, 0.5) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
        f"longest {max(seen.health) * 1e3:.0f} ms (bound of p99: {max_health * 1e3:.0f}; "
        f"p99 before {quiet * 1e3:.1f})"
    )
    print(f"longest turn {turn * 1e3:.1f} ms on the processor (bound: {MAX_TURN * 1e3:.0f})")
    print(
        f"streams      {before:.0f} tokens/s before, {during:.0f} during: {during / before:.1%} "
        f"(bound: {MIN_PACE:.0%})"
    )
    for wrong in seen.wrong[:10]:
        print(f"WRONG: {wrong}")
    pace = during >= MIN_PACE * before
    fast = p99 < max_health and turn < MAX_TURN
    return not seen.wrong and size < MAX_RSS and fast and pace


def main() -> int:
    """0 when all bounds hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--only", default="", help="the name of one attack")
    parser.add_argument(
        "--max-health", type=float, default=MAX_HEALTH, help="the bound of /health's p99, seconds"
    )
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    raise_file_limit(8 * options.connections + 2000)
    if options.attack is not None:
        os.nice(LOWER)
        attacking = attack_all(options.attack, options.seconds, options.connections, options.only)
        print(json.dumps(asyncio.run(attacking)))
        return 0
    os.environ["TURNS_BY"] = "cpu"
    given = options.seconds, options.connections, options.only
    return judge(lambda router: asyncio.run(soak(router, *given, max_health=options.max_health)))


if __name__ == "__main__":
    sys.exit(main())
