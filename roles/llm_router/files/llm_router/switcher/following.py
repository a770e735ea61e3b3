"""Follows the log of an engine that loads, for how far it has got.

The log is asked for like any other tail: through the helper under systemd, from the file of a
child. So no right is needed that the router has not got, nothing blocks the event loop, and the
cost is bounded: one look of `LINES` lines every `EVERY` seconds, while a model loads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from llm_router.config.schema import Model
from llm_router.engines.loading import Bar, last_bar
from llm_router.units.base import UnitError, Units

log = logging.getLogger(__name__)

EVERY = 1.0
LINES = 60
LOOK_WITHIN = 10.0


async def follow_load(
    units: Units, model: Model, since: float | None, advanced: Callable[[Bar], None]
) -> None:
    """Tell of each new bar until cancelled. ``since``: seconds since 1970; what was logged before
    belongs to an earlier start. None: the engine was found loading."""
    seen: Bar | None = None
    while True:
        await anyio.sleep(EVERY)
        try:
            with anyio.fail_after(LOOK_WITHIN):
                lines = await units.log_tail(model, LINES, since)
        except (UnitError, OSError) as error:
            log.debug("how far %s has got is not known: %s", model.name, error)
            continue
        bar = last_bar(lines)
        if bar is not None and bar != seen:
            seen = bar
            advanced(bar)
