"""Waits until the memory of a group's GPUs is free again. What that means, `memory` decides.

NVML is asked in a thread: a driver in trouble holds up nobody but who waits for it, and that has
a deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread

from llm_router.config.schema import Model
from llm_router.events import Event, EventStream, MemoryNotReleased, ModelLost
from llm_router.nvml import Gpu, read_memory
from llm_router.switcher.memory import (
    STEADY,
    Claim,
    Lacking,
    Memory,
    Reading,
    after_a_loss,
    claims_on,
    lacking,
    who_holds,
)
from llm_router.units.base import UnitError, Units

log = logging.getLogger(__name__)

POLL = 0.1
LOOK_WITHIN = 5.0
"""Seconds that one question to the driver may take before a stop."""
LONG_AGO = 10.0
"""Seconds after which memory that an engine gave back has come to rest, without being watched."""
_NAMED = 3


class NotReleased(Exception):
    """Memory did not come back; the message names who holds it, and what to do."""


class GpuMemory:
    """``nvml`` is the module, or None where there is none: then nothing is waited for."""

    def __init__(
        self,
        nvml: Any,
        units: Units,
        events: EventStream,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml = nvml
        self._units = units
        self._events = events
        self._clock = clock
        events.subscribe(self.listen)
        self._claims: dict[str, tuple[Claim, ...]] = {}
        """By group: what engines that were stopped have to give back yet."""
        self._since: dict[str, float] = {}
        """By group: when the last of them went."""
        self._loaded: dict[str, tuple[Claim, ...]] = {}
        """By group: what its loaded engine held when it was ready."""

    def state_of(self, group: str) -> Memory:
        """Whether memory can be waited for, or must be: an engine of the group went before."""
        if self._nvml is None:
            return "none"
        return "owed" if self._claims.get(group) else "watched"

    async def going(self, model: Model, *, stays: bool = False) -> None:
        """The engine of ``model`` is about to stop, or to give up its device."""
        if self._nvml is None:
            return
        made = await self._claims_of(model, stays=stays, before=self._claims.get(model.group, ()))
        if made is not None:
            self._claims[model.group] = made
            self._since[model.group] = self._clock()
        self._loaded.pop(model.group, None)

    def gone(self, group: str) -> None:
        """The engine has stopped, or given up its device: from now on its memory comes back."""
        if group in self._since:
            self._since[group] = self._clock()

    async def loaded(self, model: Model) -> None:
        """``model`` is ready: whatever becomes of it, this is what it holds."""
        if self._nvml is None:
            return
        made = await self._claims_of(model)
        if made is not None:
            self._loaded[model.group] = made

    def listen(self, event: Event) -> None:
        """A loaded engine that ended by itself has to give back what it held, too."""
        if isinstance(event, ModelLost) and (claims := self._loaded.pop(event.group, ())):
            self._claims[event.group] = after_a_loss(claims)
            self._since[event.group] = self._clock()

    async def wait(self, group: str, model: str, seconds: float, need: float | None) -> None:
        """Return when the group's GPUs are ready for another engine. Raises `NotReleased`.

        ``need`` as in `memory.lacking`. What did not come within ``seconds`` is told once: the next
        switch goes by what is free then.
        """
        claims = self._claims.get(group, ())
        began = self._clock()
        until = began + seconds
        if began - self._since.get(group, began) > LONG_AGO:
            claims = tuple(replace(claim, steady=False) for claim in claims)
        readings: list[Reading] = []
        while claims:
            gpus = await self._read(max(LOOK_WITHIN, until - self._clock()))
            if gpus is None:
                break
            now = self._clock()
            readings = [*(one for one in readings if now - one[0] <= 2 * STEADY), (now, gpus)]
            missing = lacking(claims, readings, need)
            if not missing:
                break
            if now >= until:
                self._claims.pop(group, None)
                await self._give_up(group, model, seconds, missing)
                return
            await anyio.sleep(POLL)
        self._claims.pop(group, None)

    async def _give_up(
        self, group: str, model: str, seconds: float, missing: tuple[Lacking, ...]
    ) -> None:
        """Memory that only moves still is no reason to fail: its engine is gone."""
        vital = [lack for lack in missing if lack.vital]
        if not vital:
            log.warning("the GPU memory that %s held moves still; going on", model)
            return
        self._events.publish(MemoryNotReleased(group, model))
        raise NotReleased("; ".join([await self._sentence(lack, seconds) for lack in vital]))

    async def _sentence(self, lack: Lacking, seconds: float) -> str:
        gpu, claim = lack.gpu, lack.claim
        has = f"GPU {gpu.index} has {_size(gpu.free)} free"
        if claim.free is not None:
            has += f" of the {_size(claim.free)} that should be"
        named = who_holds(gpu, claim)[:_NAMED]
        if not named:
            return f"{has} after {seconds:g} s, and the driver names nobody; see `nvidia-smi`"
        who = [
            f"process {pid} ({await self._units.describe_process(pid)})"
            + (f" holds {_size(memory)}" if memory is not None else " holds memory")
            for pid, memory in named
        ]
        return (
            f"{has} after {seconds:g} s: {', '.join(who)}; end it (`kill -9 {named[0][0]}`) "
            "or raise switch.memory_timeout; a process that cannot be ended wants a GPU reset "
            "or a reboot"
        )

    async def _claims_of(
        self, model: Model, *, stays: bool = False, before: tuple[Claim, ...] = ()
    ) -> tuple[Claim, ...] | None:
        gpus = await self._read(LOOK_WITHIN)
        if gpus is None:
            return None
        listed = frozenset(pid for gpu in gpus for pid in gpu.holders)
        try:
            own = await self._units.processes_among(model, listed)
        except UnitError as error:
            log.warning("nobody knows which GPU memory is %s's: %s", model.name, error)
            return None
        return claims_on(gpus, own, stays=stays, before=before)

    async def _read(self, seconds: float) -> tuple[Gpu, ...] | None:
        """None where the driver does not say: then there is nothing to wait for."""
        nvml = self._nvml
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_thread.run_sync(read_memory, nvml, abandon_on_cancel=True)
        except nvml.NVMLError as error:
            log.warning("the GPUs' memory cannot be read, and is not waited for: %s", error)
        except TimeoutError:
            log.warning("the GPU driver gave no answer within %g s", seconds)
        return None


def _size(memory: int) -> str:
    return f"{memory / 1e9:.1f} GB"
