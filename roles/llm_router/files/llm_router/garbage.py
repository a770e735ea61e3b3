"""When Python looks through all objects for cyclic garbage.

By itself it does so in the middle of anything, and with thousands of requests waiting it takes a
second in which nobody is answered. Here it is done when little is going on, and after
`AT_THE_LATEST` in any case. Garbage that is young is looked for as ever: that takes a millisecond.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

EVERY = 30.0
"""Seconds between collections while it is quiet."""
AT_THE_LATEST = 600.0
"""Seconds after which it is done however busy the router is."""
NEVER_BY_ITSELF = 1_000_000_000


async def collect_when_quiet(is_quiet: Callable[[], bool]) -> None:
    """Runs until it is cancelled; Python collects as it likes again after that."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what is there now stays for ever
    gc.set_threshold(thresholds[0], thresholds[1], NEVER_BY_ITSELF)
    try:
        last = time.monotonic()
        while True:
            await asyncio.sleep(EVERY)
            if is_quiet() or time.monotonic() - last > AT_THE_LATEST:
                gc.collect()
                last = time.monotonic()
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
