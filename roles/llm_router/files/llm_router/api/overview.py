"""What the router is doing now, as plain data: for the admin API and for the live page."""

from __future__ import annotations

import time
from typing import Any

from llm_router.api.activity import entry_of
from llm_router.api.progress import load_seconds
from llm_router.api.services import Services
from llm_router.engines import engine_for

Entry = dict[str, Any]


def model_status(services: Services, name: str) -> Entry:
    """One model. Moments are seconds since the epoch, None when there was none."""
    core = services.scheduler.core
    group = core.group_of(name)
    model = services.models[name]
    failure = core.failures.get(name)
    state = services.state_of(name)
    loaded_at = None
    if state == "loaded":
        loaded_at = round(time.time() - services.scheduler.seconds_since(group.loaded_at), 1)
    entry: Entry = {
        "state": state,
        "backend": model.backend,
        "engine": engine_for(model).label,
        "group": model.group,
        "unit": model.unit,
        "in_flight": group.in_flight(name),
        "waiting": group.waiting(name),
        "loaded_at": loaded_at,
        "last_used": services.activity.used.get(name),
        "load_seconds": load_seconds(services.last_switch.get(name), name),
    }
    if failure is not None:
        entry["failure"] = {
            "message": failure.message,
            "count": failure.count,
            "log_lines": list(failure.log_lines),
        }
    return entry


def model_mark(services: Services, name: str) -> tuple[Any, ...]:
    """Another one whenever `model_status` may be another: cheap, for who asks often."""
    core = services.scheduler.core
    group = core.group_of(name)
    return (
        services.state_of(name),
        group.in_flight(name),
        group.waiting(name),
        group.loaded_at,
        services.activity.used.get(name),
        core.failures.get(name),
        id(services.models[name]),
    )


def group_status(services: Services, name: str) -> Entry:
    """What a device group has loaded, and for how long it is pinned."""
    group = services.scheduler.core.groups[name]
    entry: Entry = {"loaded": group.current}
    if group.pinned is not None:
        left = -services.scheduler.seconds_since(group.pinned_until)
        entry["pinned"] = {"model": group.pinned, "seconds": round(max(0.0, left), 3)}
    return entry


def switch_statuses(services: Services) -> list[Entry]:
    """The switches that run now."""
    return [
        {
            "group": switch.group,
            "model": switch.target,
            "previous": switch.previous,
            "reason": switch.reason,
            "step": switch.step,
            "doing": switch.doing or None,
            "seconds": round(services.scheduler.seconds_since(switch.started), 3),
            "steps": services.progress.steps(switch.group),
        }
        for switch in services.scheduler.switches.values()
    ]


def request_statuses(services: Services) -> list[Entry]:
    """The requests that wait or are answered now, oldest first."""
    clock, now = services.clock(), time.time()
    return [entry_of(exchange, clock, now) for exchange in services.in_flight.values()]
