"""Whether a GPU's memory is free again after an engine went. Pure: no clock, no NVML of its own.

Memory is in bytes, times are in seconds. What is decided, and why:

1. A stopped engine whose processes are on the GPU's list has not let go. Systemd says that they are
   gone before the driver has taken their memory back.
2. What an engine held, by the driver's own list, is what must come back. As soon as that much more
   is free than before, nothing is waited for any longer: not a moment to be sure.
3. Where the driver does not say who holds how much (MIG, vGPU, containers), memory counts as free
   when it has not moved for `STEADY` seconds. An engine that measures while memory still comes
   back takes a wrong figure for the size of its KV cache (vllm#55827).
4. An engine that fell asleep keeps 1 to 7 GB, nobody knows how much. At least `SLEEPER_GIVES` of
   what it held must come back, and then memory must be steady.
5. What the list shows that others took meanwhile does not come back, and is not waited for: it is
   enough that memory is steady, and that the next model finds what its own settings ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llm_router.nvml import Gpu

STEADY = 0.5
SLEEPER_GIVES = 0.5
_NOISE = 64 << 20
"""What a display or another process's context may take and give without anything being meant."""
_SLACK = 256 << 20
_SLACK_PART = 0.02
"""What may be missing of what should come back: the greater of this part of all, and `_SLACK`."""
_MUCH = 1 << 30
"""More than a driver takes for itself: on a GPU without a list somebody holds it."""


Memory = Literal["none", "watched", "owed"]
"""Of a group: no GPU to ask about; GPUs; GPUs that an engine has left already."""


@dataclass(frozen=True)
class Claim:
    """What must be true of a GPU before the next engine starts.

    ``gone``: processes that must be off its list. ``free``: bytes that must be free, None where
    nobody can say. ``steady``: that is only the least, and memory must have settled too.
    ``others``: what everybody held when it was made.
    """

    gpu: int
    gone: frozenset[int] = frozenset()
    free: int | None = None
    steady: bool = True
    others: Mapping[int, int | None] = field(default_factory=dict)
    counted: Mapping[int, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Lacking:
    """A GPU on which a claim is not met. ``vital``: nothing can start there yet."""

    gpu: Gpu
    claim: Claim
    vital: bool


Reading = tuple[float, tuple[Gpu, ...]]
"""A time, and all GPUs then."""


def claims_on(
    gpus: Sequence[Gpu], own: frozenset[int], *, stays: bool = False, before: Sequence[Claim] = ()
) -> tuple[Claim, ...]:
    """What must come back from an engine that is about to go; ``gpus`` are as they are now.

    ``own``: its processes. ``stays``: it sleeps, or unloads. ``before``: claims on the same GPUs
    from engines that go with it.
    """
    made = {claim.gpu: claim for claim in before}
    for gpu in gpus:
        mine = own & gpu.holders.keys()
        if mine:
            made[gpu.index] = _claim(gpu, mine, stays, made.get(gpu.index))
        elif not gpu.holders and gpu.total - gpu.free > _MUCH:
            made.setdefault(gpu.index, Claim(gpu.index))
    return tuple(made.values())


def _claim(gpu: Gpu, mine: frozenset[int], stays: bool, before: Claim | None) -> Claim:
    gone = (frozenset() if stays else mine) | (before.gone if before else frozenset())
    held = [gpu.holders[pid] for pid in mine]
    known = [memory for memory in held if memory is not None]
    if len(known) < len(held) or (before is not None and before.free is None):
        return Claim(gpu.index, gone)
    comes = int(sum(known) * SLEEPER_GIVES) if stays else sum(known)
    counted = dict(before.counted) if before is not None else {}
    base = before.free if before is not None and before.free is not None else gpu.free
    base -= sum(counted.get(pid, 0) for pid in mine)
    part = SLEEPER_GIVES if stays else 1
    counted |= {pid: int((gpu.holders[pid] or 0) * part) for pid in mine}
    return Claim(
        gpu.index,
        gone,
        min(base + comes, gpu.total),
        stays or (before is not None and before.steady),
        before.others if before is not None else gpu.holders,
        counted,
    )


def after_a_loss(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """What is left of claims that were made long before: who must be gone, and where."""
    return tuple(Claim(claim.gpu, claim.gone) for claim in claims)


def lacking(
    claims: Sequence[Claim], readings: Sequence[Reading], need: float | None = None
) -> tuple[Lacking, ...]:
    """The GPUs that are not ready for the next engine; none: it may start.

    ``readings``: oldest first, the last one counts and the others tell whether it is steady.
    ``need``: the part of a GPU's memory, 0 to 1, that the next model's settings ask for.
    """
    now = {gpu.index: gpu for gpu in readings[-1][1]}
    found = (_look(claim, now[claim.gpu], readings, need) for claim in claims if claim.gpu in now)
    return tuple(lack for lack in found if lack is not None)


def _look(
    claim: Claim, gpu: Gpu, readings: Sequence[Reading], need: float | None
) -> Lacking | None:
    if claim.gone & gpu.holders.keys():
        return Lacking(gpu, claim, vital=True)
    slack = max(_SLACK, int(gpu.total * _SLACK_PART))
    if claim.free is not None and gpu.free < claim.free - slack:
        taken = claim.free - gpu.free - _taken_by_others(claim, gpu) <= slack
        enough = need is None or gpu.free >= need * gpu.total - slack
        if not (taken and enough):
            return Lacking(gpu, claim, vital=True)
    elif not claim.steady:
        return None
    return None if _steady(claim.gpu, readings) else Lacking(gpu, claim, vital=False)


def _taken_by_others(claim: Claim, gpu: Gpu) -> int:
    grown = 0
    for pid, memory in gpu.holders.items():
        grown += max(0, (memory or 0) - (claim.others.get(pid) or 0))
    return grown


def _steady(index: int, readings: Sequence[Reading]) -> bool:
    """Whether the GPU's memory has not moved for as long as `STEADY`."""
    last = readings[-1][0]
    seen: list[int] = []
    for when, gpus in reversed(readings):
        seen += [gpu.free for gpu in gpus if gpu.index == index]
        if last - when >= STEADY:
            return max(seen) - min(seen) <= _NOISE
    return False


def who_holds(gpu: Gpu, claim: Claim) -> list[tuple[int, int | None]]:
    """The processes to name, most memory first: those that should be gone, else all on the list."""
    late = claim.gone & gpu.holders.keys()
    named = [(pid, memory) for pid, memory in gpu.holders.items() if not late or pid in late]
    return sorted(named, key=lambda one: one[1] or 0, reverse=True)
