"""Two models of a group are switched to and fro while clients wait and read. None may lose any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from llm_router.qualify import plan
from llm_router.qualify.client import CallFailed
from llm_router.qualify.measure import median, quantile
from llm_router.qualify.report import Status, counted
from llm_router.qualify.session import Session, outcome_of


@dataclass
class _Turns:
    """Of one group. ``seconds``: from the requests for the other model until each of them had its
    first token, one entry a switch; ``lost``: why answers were not whole."""

    requests: int = 0
    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


async def check_switches(session: Session) -> None:
    """Add a row for each group, and one for the switches that the budget has no time for."""
    loads = {name: session.load_seconds[name] for name in session.operations}
    found = plan.pairs(list(session.models), session.groups, loads)
    for group, pair in found.items():
        if pair is None:
            why = "the group has no two models that were loaded and answered"
            session.add("switches", group, ("skipped", why))
        else:
            await _group(session, group, pair)


async def _group(session: Session, group: str, pair: tuple[str, str]) -> None:
    began, turns = session.clock(), _Turns()
    why = session.too_late(sum(session.load_seconds[name] for name in pair))
    if why is None:
        await session.look_for_others()
        try:
            await session.load(pair[0])
        except CallFailed as error:
            session.add("switches", group, outcome_of(error))
            return
        async with anyio.create_task_group() as tasks:
            why = await _to_and_fro(session, pair, turns, tasks.start_soon)
    done = len(turns.seconds)
    if done:
        _add_row(session, group, pair, turns, session.clock() - began)
    if why is not None:
        left_out = f"{plan.SWITCHES - done} of {plan.SWITCHES} switches were not made: {why}"
        session.add("switches", group, ("skipped", left_out), part="rest")


async def _to_and_fro(
    session: Session, pair: tuple[str, str], turns: _Turns, start: Callable[..., Any]
) -> str | None:
    """Why not all of the switches were made, or None. The streams of the model that has to go run
    on while those of the next one wait."""
    await _begin_streams(session, pair[0], turns, start)
    for number in range(plan.SWITCHES):
        why = session.too_late(max(turns.seconds, default=None))
        if why is not None:
            return why
        sent, target = session.clock(), pair[(number + 1) % 2]
        await _begin_streams(session, target, turns, start)
        turns.seconds.append(session.clock() - sent)
        state = await session.state(target)
        if state != "loaded":
            turns.lost.append(f"{target} is {state} after its turn")
        if turns.lost:
            return "an answer was lost"
    return None


async def _begin_streams(
    session: Session, name: str, turns: _Turns, start: Callable[..., Any]
) -> None:
    """Begin some streams of a model, and return when each of them has its first token."""
    firsts = [anyio.Event() for _ in range(plan.STREAMS)]
    for number, first in enumerate(firsts):
        start(_one_stream, session, name, len(turns.seconds) + number, first, turns)
    for first in firsts:
        await first.wait()


async def _one_stream(
    session: Session, name: str, number: int, first: anyio.Event, turns: _Turns
) -> None:
    answer = await session.stream(name, number, first)
    turns.requests += 1
    wrong = session.wrong(name, answer)
    if wrong is not None:
        turns.lost.append(f"{name}: {wrong}")


def _add_row(
    session: Session, group: str, pair: tuple[str, str], turns: _Turns, took: float
) -> None:
    done = len(turns.seconds)
    status: Status = "failed" if turns.lost else "passed"
    said = f"{counted(done, 'switch', 'switches')} between {pair[0]} and {pair[1]}, "
    said += f"{counted(turns.requests, 'answer')}, "
    said += f"{len(turns.lost)} lost: {turns.lost[0]}" if turns.lost else "none lost"
    session.add(
        "switches",
        group,
        (status, said),
        seconds=took,
        values={
            "switches": done,
            "switches_wanted": plan.SWITCHES,
            "requests": turns.requests,
            "requests_lost": len(turns.lost),
            "turn_seconds_p50": median(turns.seconds),
            "turn_seconds_max": quantile(turns.seconds, 1),
        },
    )
