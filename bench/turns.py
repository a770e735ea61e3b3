"""A router that measures the turns of its event loop: ``python -m bench.turns serve …``.

One turn is what asyncio does between two looks at what is ready: while it lasts, nobody else is
served. When the loop is closed, the file that TURNS names has the longest ones,
``[{"at", "seconds", "cpu"}, …]``: seconds since 1970, by the clock, and on the processor. The
difference between the last two is what other processes took. With TURNS_BY=cpu they are those that
took longest on the processor.
"""

from __future__ import annotations

import heapq
import json
import os
import sys
import time
from asyncio import SelectorEventLoop
from pathlib import Path
from typing import Any

from llm_router.cli import main

KEPT = 20


def measured(file: Path, by: str = "seconds") -> None:
    """From now on, note the longest turns of an event loop, and write them when it is closed."""
    loop_class: Any = SelectorEventLoop
    process_events, run_once = loop_class._process_events, loop_class._run_once
    close = loop_class.close
    longest: list[tuple[float, float, float, float]] = []
    began = began_cpu = 0.0

    def look(self: Any, events: Any) -> None:
        nonlocal began, began_cpu
        began, began_cpu = time.perf_counter(), time.thread_time()  # waiting is over
        process_events(self, events)

    def turn(self: Any) -> None:
        run_once(self)
        seconds = time.perf_counter() - began
        cpu = time.thread_time() - began_cpu
        item = (cpu if by == "cpu" else seconds, seconds, cpu, time.time())
        if len(longest) < KEPT:
            heapq.heappush(longest, item)
        elif item[0] > longest[0][0]:
            heapq.heapreplace(longest, item)

    def write(self: Any) -> None:
        turns = [
            {"at": at, "seconds": seconds, "cpu": cpu}
            for _, seconds, cpu, at in sorted(longest, reverse=True)
        ]
        file.write_text(json.dumps(turns), encoding="utf-8")
        close(self)

    loop_class._process_events, loop_class._run_once = look, turn
    loop_class.close = write


if __name__ == "__main__":
    measured(Path(os.environ["TURNS"]), os.environ.get("TURNS_BY", "seconds"))
    sys.exit(main())
