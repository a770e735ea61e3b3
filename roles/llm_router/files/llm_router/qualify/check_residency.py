"""Tries each way in which a model can leave the GPU and come back, and measures GPU memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_router.qualify import host, plan
from llm_router.qualify.client import CallFailed
from llm_router.qualify.plan import Way
from llm_router.qualify.report import Status, Value, counted
from llm_router.qualify.session import Session, between, gigabytes, outcome_of


@dataclass
class Gate:
    """GPU memory around the stops of engines. ``base``: bytes in use while everything of
    the group is stopped; None: not known, or there is no GPU."""

    base: int | None = None
    stops: int = 0
    waits: list[float] = field(default_factory=list)
    missing: int = 0
    unwaited: list[str] = field(default_factory=list)
    """Models that were loaded again without a wait."""

    def note(
        self, name: str, total: int, held: int | None, left: int | None, wait: float | None
    ) -> None:
        """An engine was stopped and started; bytes in use while it was loaded and after its stop,
        and the seconds for which the next start waited."""
        base = self.base
        if held is None or left is None or base is None or held - base <= plan.SLACK_BYTES:
            return
        self.stops += 1
        self.missing = max(self.missing, plan.missing_memory(held, base, left, total))
        if wait is None:
            self.unwaited.append(name)
        else:
            self.waits.append(wait)

    def outcome(self) -> tuple[Status, str]:
        """Of all stops together."""
        if not self.stops:
            return "skipped", "no engine that held GPU memory was stopped and started again"
        if self.unwaited:
            names = ", ".join(self.unwaited)
            return "failed", f"the next load did not wait for the GPU memory of {names}"
        if self.missing:
            return "failed", f"{gigabytes(self.missing)} of GPU memory did not come back"
        longest = max(self.waits, default=0.0)
        return (
            "passed",
            f"all came back after {counted(self.stops, 'stop')}; longest wait {longest:.2f} s",
        )


async def check_residencies(session: Session) -> None:
    """Add the rows of all models, group by group, and that of the memory gate."""
    gate = Gate()
    for group in dict.fromkeys(session.groups.values()):
        gate.base = await _base(session, group)
        for name in (name for name, own in session.groups.items() if own == group):
            await _model(session, name, gate)
    _memory(session, gate)


async def _base(session: Session, group: str) -> int | None:
    """Read once for each group: the models of other groups are part of it."""
    if session.nvml is None or session.too_late(None) is not None:
        return None
    try:
        await session.unload(group)
    except CallFailed:
        return None
    return await session.used_memory()


async def _model(session: Session, name: str, gate: Gate) -> None:
    load = session.load_seconds.get(name)
    for way, missing in plan.ways(session.models[name]):
        if load is None:
            missing = "the model is not loaded"
        why = missing or session.too_late(2 * (load or 0.0))
        if not why:
            await session.look_for_others()
            try:
                await _out_and_back(session, name, way, gate)
            except CallFailed as error:
                session.add("residency", name, outcome_of(error), part=way)
            continue
        session.add("residency", name, ("skipped", why), part=way)
        if way == "stop":
            session.add("learned", name, ("skipped", why))


def _memory(session: Session, gate: Gate) -> None:
    if session.nvml is None:
        session.add("memory", "", ("skipped", host.NO_GPU))
        return
    values: dict[str, Value] = {
        "stops": gate.stops,
        "memory_wait_seconds_max": max(gate.waits, default=None),
        "gpu_memory_missing_bytes": gate.missing,
    }
    session.add("memory", "", gate.outcome(), values=values)


async def _out_and_back(session: Session, name: str, way: Way, gate: Gate) -> None:
    """Raises `CallFailed`."""
    began = session.clock()
    await session.load(name)
    held = await session.used_memory()
    # a stop is one of everything in the group: what sleeps there holds memory too
    out = await session.unload(session.groups[name], way if way != "stop" else None)
    left = await session.used_memory()
    state = await session.state(name)
    if way == "stop":
        await _learned(session, name)
    back = await session.load(name)
    operation = session.operations.get(name)
    answer = await session.ask(name, operation) if operation is not None else None
    after = await session.used_memory()
    wait = _seconds_of(back["steps"], "WaitForMemory")
    if way == "stop":
        total = sum(int(gpu["memory_total_bytes"] or 0) for gpu in session.report.gpus)
        gate.note(name, total, held, left, wait)
    wrong = _wrong_way(way, state, _kinds(out, name), _kinds(back, name))
    if wrong is None and answer is not None:
        said = session.wrong(name, answer)
        wrong = f"its answer after that: {said}" if said is not None else None
    freed = between(left, held)
    told = f"out in {out['seconds']:.1f} s, back in {back['seconds']:.1f} s"
    told += f", {gigabytes(freed)} of GPU memory freed" if freed is not None else ""
    session.add(
        "residency",
        name,
        ("failed", wrong) if wrong is not None else ("passed", told),
        part=way,
        seconds=session.clock() - began,
        values={
            "out_seconds": out["seconds"],
            "back_seconds": back["seconds"],
            "memory_wait_seconds": wait,
            "gpu_memory_before_bytes": held,
            "gpu_memory_out_bytes": left,
            "gpu_memory_after_bytes": after,
            "gpu_memory_freed_bytes": freed,
        },
    )


def _wrong_way(way: Way, state: str, out: Sequence[str], back: Sequence[str]) -> str | None:
    if plan.LEAVES[way] not in out or state != ("stopped" if way == "stop" else "asleep"):
        return f"it did not leave in this way: {', '.join(out) or 'no steps'}; it is {state}"
    if plan.RETURNS[way] not in back:
        return f"it did not come back in this way: {', '.join(back) or 'no steps'}"
    return None


async def _learned(session: Session, name: str) -> None:
    """Whether the router knows how long the load will take, now that the model is stopped."""
    expected = await session.expected(name)
    if expected is None:
        why = "the router has learned no time from the loads before; see learned.json in state_dir"
        session.add("learned", name, ("failed", why))
        return
    took = session.load_seconds[name]
    said = f"{expected:.1f} s are expected for the next load; the first one took {took:.1f} s"
    session.add("learned", name, ("passed", said), values={"expected_seconds": expected})


def _kinds(answer: Mapping[str, Any], model: str) -> list[str]:
    return [str(step["step"]) for step in answer["steps"] if step["model"] == model]


def _seconds_of(steps: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    found = [float(step["seconds"]) for step in steps if step["step"] == kind]
    return sum(found) if found else None
