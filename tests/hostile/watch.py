"""Good clients beside hostile engines: what they feel.

    python -m tests.hostile.watch ROUTER_PORT ENGINE_PORT MODEL

Streams run through the router, and as many straight from the same good engine: both suffer from
whatever else this machine does, so the difference is the router's. Health checks ask meanwhile.
When standard input ends, the process prints what was seen as JSON and ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

from tests.soak.client import encode

STREAMS = 5
TOKENS = 100
BETWEEN_CHECKS = 0.05
"""Seconds."""
PATIENCE = 20.0
"""Seconds that a token or a health check may take before the client gives up."""


@dataclass
class Seen:
    """Seconds between tokens of streams (through the router, and direct), of health checks (of the
    router, and of the good engine); and what must not be."""

    through: list[float] = field(default_factory=list)
    direct: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    answers: int = 0
    """Whole streams through the router."""
    wrong: list[str] = field(default_factory=list)


async def stream(port: int, model: str, gaps: list[float]) -> str | None:
    """One streamed answer; what is wrong with it, if anything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tokens, done, last = 0, False, 0.0
    try:
        writer.write(encode(model, stream=True))
        while line := await asyncio.wait_for(reader.readline(), PATIENCE):
            if b'"content"' in line:
                now = time.monotonic()
                if tokens:
                    gaps.append(now - last)
                tokens, last = tokens + 1, now
            elif b'"error"' in line:
                return line.decode(errors="replace")
            done = done or line.startswith(b"data: [DONE]")
    except (OSError, asyncio.TimeoutError) as error:
        return repr(error)
    finally:
        writer.transport.abort()
    return None if done and tokens == TOKENS else f"{tokens} tokens, and done: {done}"


async def streams(
    port: int, model: str, gaps: list[float], seen: Seen, ending: asyncio.Event, number: int
) -> None:
    """One answer after the other."""
    await asyncio.sleep(number / 100)  # not all at the same moment
    while not ending.is_set():
        wrong = await stream(port, model, gaps)
        if gaps is seen.through:
            seen.answers += 1
            if wrong is not None:
                seen.wrong.append(f"a good stream: {wrong}")


async def health(port: int, times: list[float], seen: Seen, ending: asyncio.Event) -> None:
    """As a balancer asks: a connection for each."""
    while not ending.is_set():
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            got = await asyncio.wait_for(reader.read(65536), PATIENCE)
            writer.close()
            if not got.startswith(b"HTTP/1.1 200"):
                seen.wrong.append(f"/health: {got[:30]!r}")
        except (OSError, asyncio.TimeoutError) as error:
            seen.wrong.append(f"/health: {error!r}")
        times.append(time.monotonic() - began)
        await asyncio.sleep(BETWEEN_CHECKS)


async def main(router: int, engine: int, model: str) -> None:
    """Until standard input ends."""
    seen, ending = Seen(), asyncio.Event()
    tasks = [
        asyncio.create_task(streams(port, model, gaps, seen, ending, number))
        for port, gaps in ((router, seen.through), (engine, seen.direct))
        for number in range(STREAMS)
    ]
    tasks.append(asyncio.create_task(health(router, seen.health, seen, ending)))
    tasks.append(asyncio.create_task(health(engine, seen.control, seen, ending)))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ending.set()
    await asyncio.gather(*tasks)
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
