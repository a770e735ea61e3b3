"""Follows an engine that loads: how far it says that it has got, and whether it compiles.

The log is asked for like any other tail: through the helper under systemd, from the file of a
child. So no right is needed that the router has not got, nothing blocks the event loop, and the
cost is bounded: one look of `LINES` lines every `EVERY` seconds, while a model loads.

Compilers are processes of the engine's unit. systemd names these to everybody, so no right is
needed for that either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from llm_router.config.schema import Model
from llm_router.engines.compilers import is_compiling
from llm_router.engines.loading import Bar, last_bar
from llm_router.units.base import UnitError, Units

log = logging.getLogger(__name__)

EVERY = 1.0
LINES = 60
LOOK_WITHIN = 10.0
QUIET_LOOKS = 3
"""Looks without a compiler after which the engine compiles no more: there are gaps between two."""


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


async def follow_compilers(units: Units, model: Model, told: Callable[[bool], None]) -> None:
    """Call ``told`` after each look that found a compiler in the unit, and once with False when it
    compiles no more. Until cancelled."""
    quiet = QUIET_LOOKS
    while True:
        try:
            with anyio.fail_after(LOOK_WITHIN):
                compiling = is_compiling(await units.programs(model))
        except (UnitError, OSError) as error:
            log.debug("whether %s compiles is not known: %s", model.name, error)
            compiling = False
        if compiling:
            quiet = 0
            told(True)
        elif quiet < QUIET_LOOKS:
            quiet += 1
            if quiet == QUIET_LOOKS:
                told(False)
        await anyio.sleep(EVERY)
