"""Starting and stopping a unit, with everything that can go wrong on the way.

Works on any `Manager`; `llm_router.units.dbus.SystemdManager` is the real one.
"""

from __future__ import annotations

from typing import Protocol

import anyio

from llm_router.units.base import UnitError
from llm_router.units.dbus import ManagerError, UnitFacts

KILL_TIMEOUT = 10.0
"""Seconds that SIGKILL gets to be over. A process that is still there then hangs in the kernel."""
LOOK_EVERY = 0.25
"""Seconds between two looks at a unit whose start job runs."""
LEFTOVER_GRACE = 5.0
"""Seconds that processes get which systemd left in a stopped unit (KillMode=process, say)."""

_RESULTS = {
    "failed": "the unit failed",
    "canceled": "another job took its place",
    "timeout": "systemd's own time limit for it ran out",
    "dependency": "a unit that it depends on failed",
    "skipped": "systemd found nothing to do for it in its state",
    "invalid": "the unit does not support it",
    "assert": "an Assert…= of the unit does not hold",
    "unsupported": "this system does not support it",
    "collected": "the job was dropped",
    "once": "the unit may be started only once",
    "frozen": "the unit is frozen",
}
_AT_REST = ("inactive", "failed")


class Manager(Protocol):
    """What of systemd's manager is needed; see `SystemdManager` for the contracts."""

    async def facts(self, unit: str, /) -> UnitFacts: ...
    async def processes(self, unit: str, /) -> list[int]: ...
    async def queue_start(self, unit: str, /) -> str: ...
    async def queue_stop(self, unit: str, /) -> str: ...
    async def job_result(self, job: str, /) -> str: ...
    async def cancel_job(self, job: str, /) -> None: ...
    async def reset_failed(self, unit: str, /) -> None: ...
    async def kill(self, unit: str, /) -> None: ...
    async def reload(self) -> None: ...


async def start(manager: Manager, unit: str, seconds: float) -> None:
    """Start the unit and wait for systemd's job. Raises `UnitError`.

    A caller that is cancelled, or a deadline that passes, takes the job back; what has been started
    by then is for a `stop`.
    """
    facts = await manager.facts(unit)
    if facts.load_state == "not-found":
        raise UnitError(f"unit {unit} does not exist; is the engine's role installed?")
    if facts.load_state == "masked":
        raise UnitError(f"unit {unit} is masked; `systemctl unmask {unit}` lets it start")
    if facts.load_state != "loaded":
        raise UnitError(
            f"unit {unit} cannot be loaded ({facts.load_state}); `systemctl status {unit}` says why"
        )
    # many failures of the past must not refuse a start that somebody wants now
    await manager.reset_failed(unit)
    with anyio.CancelScope(shield=True):  # or a job would be queued that nobody knows
        try:
            job = await manager.queue_start(unit)
        except ManagerError as error:
            raise UnitError(f"unit {unit} cannot be started: {error}") from error
    result = None
    try:
        with anyio.move_on_after(seconds):
            # one that waits to be restarted is restarted by this job
            before = int(facts.sub_state.startswith("auto-restart"))
            result = await _start_result(manager, unit, job, before)
    finally:
        if result is None:
            with anyio.CancelScope(shield=True):
                await manager.cancel_job(job)
    if result is None:
        raise UnitError(f"unit {unit} did not start within {seconds:g} s")
    if result != "done":
        detail = _how_it_ended(await manager.facts(unit))
        raise UnitError(
            f"starting {unit} ended as {result}: {_RESULTS.get(result, 'see the journal')}{detail}"
        )


async def stop(manager: Manager, unit: str, seconds: float) -> None:
    """Stop the unit and wait until none of its processes is left. Raises `UnitError`.

    Past ``seconds`` its processes get SIGKILL. A unit that does not exist is stopped.
    """
    try:
        job = await manager.queue_stop(unit)
    except ManagerError as error:
        if error.name == "NoSuchUnit":
            return
        raise UnitError(f"unit {unit} cannot be stopped: {error}") from error
    result = await _job_within(manager, job, seconds)
    if result is None:
        await manager.kill(unit)
        result = await _job_within(manager, job, KILL_TIMEOUT)
    if result is None:
        raise UnitError(
            f"unit {unit} did not stop within {seconds:g} s, and SIGKILL did not end it"
        )
    if result != "done":
        raise UnitError(
            f"stopping {unit} ended as {result}: {_RESULTS.get(result, 'see the journal')}"
        )
    if await _gone_within(manager, unit, LEFTOVER_GRACE):
        return
    await manager.kill(unit)
    if await _gone_within(manager, unit, KILL_TIMEOUT):
        return
    facts, pids = await manager.facts(unit), await manager.processes(unit)
    left = f", with processes {', '.join(map(str, pids))}" if pids else ""
    raise UnitError(f"unit {unit} was stopped and is {facts.active_state} all the same{left}")


async def _start_result(manager: Manager, unit: str, job: str, exits: int) -> str:
    """The result of a start job. Raises `UnitError` as soon as systemd restarts the unit.

    Before systemd 254 the job of a unit that is not up when its process ends (Type=notify, say)
    goes on through all of its restarts.
    """
    while True:
        with anyio.move_on_after(LOOK_EVERY):
            return await manager.job_result(job)
        facts = await manager.facts(unit)
        if facts.exits > exits:
            raise UnitError(
                f"unit {unit} ended while it started{_how_it_ended(facts)}, and systemd restarts "
                f"it again and again; see `journalctl -u {unit}`"
            )


def _how_it_ended(facts: UnitFacts) -> str:
    if facts.result in ("", "success"):
        return ""
    status = f", status {facts.exit_status}" if facts.exit_status else ""
    return f" ({facts.result}{status})"


async def _job_within(manager: Manager, job: str, seconds: float) -> str | None:
    with anyio.move_on_after(seconds):
        return await manager.job_result(job)
    return None


async def _gone_within(manager: Manager, unit: str, seconds: float) -> bool:
    """Whether the unit is at rest and its control group empty; no signal tells of the latter."""
    pause = 0.01
    with anyio.move_on_after(seconds):
        while True:
            facts = await manager.facts(unit)
            at_rest = facts.active_state in _AT_REST and not facts.main_pid
            if at_rest and not await manager.processes(unit):
                return True
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.1)
    return False
