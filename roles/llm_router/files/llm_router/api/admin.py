"""Administration: what runs, what would happen, switch now. Scope ``admin`` or the admin socket."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from llm_router.api.auth import identify
from llm_router.api.errors import ApiError, bad_request, cancelled, refused, unknown_model
from llm_router.api.live import follow
from llm_router.api.overview import (
    group_status,
    model_status,
    request_statuses,
    switch_statuses,
)
from llm_router.api.reload import Reloader
from llm_router.api.services import Services
from llm_router.config.errors import ConfigError
from llm_router.config.schema import ResidencyWish
from llm_router.engines import engine_for
from llm_router.events import SwitchEnded
from llm_router.scheduler.service import Refused, SwitchFailed, SwitchRunning
from llm_router.units.base import UnitError


class _ModelCall(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str


class SwitchCall(_ModelCall):
    """``timeout``: how long the caller waits, in seconds; a switch that has begun goes on."""

    timeout: float | None = Field(None, gt=0)


def admin_services(request: Request) -> Services:
    """The services, for a caller that may administer."""
    services: Services = request.app.state.services
    caller = identify(request.scope, request.headers, services.settings)
    caller.must("admin")
    return services


Admin = Annotated[Services, Depends(admin_services)]
router = APIRouter(prefix="/admin")


@router.get("/status")
async def get_status(services: Admin) -> dict[str, Any]:
    """Models with their states, running switches, who waits and who is served."""
    models = {name: model_status(services, name) for name in services.models}
    groups = {name: group_status(services, name) for name in services.scheduler.core.groups}
    return {"models": models, "groups": groups, "switches": switch_statuses(services)}


@router.post("/switch")
async def switch(call: SwitchCall, services: Admin) -> dict[str, Any]:
    """Have a model loaded, and wait for it. A switch that others wait for is joined."""
    _known(services, call.model)
    # an operator's word is the way back for a model that failed too often
    services.scheduler.clear(call.model)
    previous = services.scheduler.core.group_of(call.model).current
    began = services.clock()
    try:
        with anyio.fail_after(call.timeout):
            async with services.scheduler.lease(call.model):
                pass
    except TimeoutError as error:
        goes_on = services.scheduler.is_loading(call.model)
        rest = "the switch goes on" if goes_on else "it had not been its turn, and is given up"
        raise ApiError(
            504,
            "switch_timeout",
            f"'{call.model}' was not ready within {call.timeout:g} s; {rest}.",
            kind="server_error",
        ) from error
    except Refused as error:
        raise refused(error.refusal, with_log=True) from error
    changed = previous != call.model
    last = services.last_switch.get(call.model) if changed else None
    return {
        "changed": changed,
        "model": call.model,
        "previous": previous,
        "seconds": round(services.clock() - began, 3),
        "steps": _steps_taken(last),
    }


class _GroupCall(BaseModel):
    model_config = ConfigDict(extra="forbid")

    group: str = "default"


class OnceCall(_ModelCall):
    """``dry_run``: only say whether it would be done."""

    dry_run: bool = False


@router.post("/sleep")
async def sleep(call: OnceCall, services: Admin) -> dict[str, Any]:
    """Have a model fall asleep for the first time since the boot, which can take half a minute, so
    that no person waits for that: it is loaded where it is not, and then gives up its device.

    Nothing happens if it slept before, if it is none that sleeps, or if its weights would not fit
    into the memory for that beside those that sleep already."""
    _known(services, call.model)
    before = services.scheduler.core.group_of(call.model).current
    found: dict[str, Any] = {"model": call.model, "previous": before, "seconds": 0.0, "steps": []}
    if services.switcher.has_slept(call.model) or services.state_of(call.model) == "asleep":
        return {"changed": False, **found, "reason": "it slept before"}
    if not await services.switcher.would_sleep(call.model):
        return {"changed": False, **found, "reason": "it does not sleep, or does not fit"}
    if call.dry_run:
        return {"changed": True, **found, "reason": ""}
    began = services.clock()
    loaded = await switch(SwitchCall(model=call.model, timeout=None), services)
    gone = await _unload(services.models[call.model].group, services, stays=True)
    return {
        "changed": True,
        "model": call.model,
        "previous": before,
        "seconds": round(services.clock() - began, 3),
        "steps": [*loaded["steps"], *gone["steps"]],
        "reason": "",
    }


@router.post("/first-load")
async def first_load(call: OnceCall, services: Admin) -> dict[str, Any]:
    """Have a model loaded for the first time by the release of its engine that is in use, so that
    no person waits while kernels are compiled. Nothing happens if that release has loaded it, as it
    is configured now."""
    _known(services, call.model)
    before = services.scheduler.core.group_of(call.model).current
    found: dict[str, Any] = {"model": call.model, "previous": before, "seconds": 0.0, "steps": []}
    try:
        release = await services.units.release(services.models[call.model])
    except UnitError as error:
        raise ApiError(503, "units_unavailable", f"{error}.", kind="server_error") from error
    if before == call.model or not services.learned.is_first(call.model, release):
        return {"changed": False, **found}
    if call.dry_run:
        return {"changed": True, **found}
    done = await switch(SwitchCall(model=call.model, timeout=None), services)
    services.learned.loaded_by(call.model, release)
    return done


class UnloadCall(_GroupCall):
    """``residency``: how the loaded model leaves its device, in place of what models.yml says;
    without it, everything of the group is stopped."""

    residency: Literal["stop", "sleep", "discard", "unload"] | None = None


@router.post("/unload")
async def unload(call: UnloadCall, services: Admin) -> dict[str, Any]:
    """Free a group's device once its running answers have ended, and wait for that. With a
    ``residency`` other models of the group that sleep are left alone."""
    _known_group(services, call.group)
    way = call.residency
    loaded = services.scheduler.core.groups[call.group].current
    model = services.models.get(loaded or "")
    if model is not None and way not in (None, "stop", *engine_for(model).residencies):
        raise bad_request(f"'{model.name}' cannot do '{way}': its engine has no call for it.")
    return await _unload(call.group, services, stays=way is not None, residency=way)


async def _unload(
    group: str, services: Services, *, stays: bool = False, residency: ResidencyWish | None = None
) -> dict[str, Any]:
    began = services.clock()
    try:
        previous = await services.scheduler.unload(group, stays=stays, residency=residency)
    except SwitchRunning as error:
        raise ApiError(
            409,
            "switch_running",
            f"Group '{group}' switches to '{error.model}' now; unload it when that is done, "
            "or cancel the switch first.",
        ) from error
    except SwitchFailed as error:
        raise ApiError(
            503,
            "unload_failed",
            f"Group '{group}' could not be unloaded. {error}",
            kind="server_error",
            log_lines=error.log_lines,
        ) from error
    last = services.last_unload.get(group) if previous is not None else None
    return {
        "changed": previous is not None,
        "group": group,
        "previous": previous,
        "seconds": round(services.clock() - began, 3),
        "steps": _steps_taken(last),
    }


@router.post("/cancel")
async def cancel_switch(call: _GroupCall, services: Admin) -> dict[str, Any]:
    """End the running switch of a group: what it had begun is stopped, the former model is brought
    back, and who waited for the new one is told."""
    _known_group(services, call.group)
    running = services.scheduler.switches.get(call.group)
    if running is None:
        return {"changed": False, "group": call.group}
    running.scope.cancel()
    await running.ended.wait()
    # it may have been done before the cancel came to it
    return {"changed": running.error is not None, "group": call.group}


class ReloadCall(BaseModel):
    """``dry_run``: only say what would change."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = False


@router.post("/reload")
async def reload(request: Request, call: ReloadCall, services: Admin) -> dict[str, Any]:
    """Read the configuration again. What did not change is not touched; a configuration with
    mistakes is refused, and the old one goes on."""
    reloader: Reloader = request.app.state.reloader
    try:
        changes = await reloader.reload(dry_run=call.dry_run)
    except ConfigError as error:
        raise ApiError(
            409,
            "config_invalid",
            "The configuration has mistakes, and the old one goes on.",
            log_lines=[str(problem) for problem in error.problems],
        ) from error
    return {"changed": bool(changes), **asdict(changes)}


class DrainCall(BaseModel):
    """``on``: false takes it back. ``timeout``: how long to wait until nothing is under way, in
    seconds; without it, not at all."""

    model_config = ConfigDict(extra="forbid")

    on: bool = True
    timeout: float | None = Field(None, gt=0)


@router.post("/drain")
async def drain(call: DrainCall, services: Admin) -> dict[str, Any]:
    """Have `/health` say that requests are better sent elsewhere, and wait for those that are
    under way. Whoever comes all the same is served; a restart ends it."""
    changed = services.draining != call.on
    services.draining = call.on
    if call.on and call.timeout is not None:
        with anyio.move_on_after(call.timeout):
            # rare, and a tenth of a second late does no harm
            while services.in_flight and services.draining:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        if services.in_flight:
            raise ApiError(
                504,
                "drain_timeout",
                f"{len(services.in_flight)} requests are still under way after "
                f"{call.timeout:g} s; /health goes on to say that the router is draining.",
                kind="server_error",
            )
    return {"changed": changed, "draining": call.on, "in_flight": len(services.in_flight)}


class PinCall(_ModelCall):
    """``seconds``: for how long nothing else may be loaded in the model's group; 0 ends it."""

    seconds: float = Field(ge=0, allow_inf_nan=False)


@router.post("/pin")
async def pin(call: PinCall, services: Admin) -> dict[str, Any]:
    """Hold a model: load it, and keep every other of its group out for a time."""
    _known(services, call.model)
    if call.seconds == 0:
        services.scheduler.unpin(call.model)
        return {"model": call.model, "seconds": 0}
    try:
        async with services.scheduler.lease(call.model):
            services.scheduler.pin(call.model, call.seconds)
    except Refused as error:
        raise refused(error.refusal, with_log=True) from error
    return {"model": call.model, "seconds": call.seconds}


@router.get("/requests")
async def requests(services: Admin) -> dict[str, Any]:
    """The requests that wait or are answered now, oldest first."""
    return {"requests": request_statuses(services)}


@router.delete("/requests/{number}")
async def cancel_request(number: int, services: Admin) -> dict[str, Any]:
    """End a request: its place in the queue, or its answer. Its client is told."""
    exchange = services.in_flight.get(number)
    if exchange is None:
        raise ApiError(404, "request_not_found", f"No request {number} is in flight.")
    exchange.end(cancelled())
    return {"changed": True, "id": number}


@router.get("/plan")
async def plan(services: Admin, model: str | None = None, group: str = "default") -> dict[str, Any]:
    """What a request for ``model`` would do now, or without one, what unloading ``group`` would;
    changes nothing. What is expected was learned from past switches, and leaves out the drain."""
    try:
        if model is None:
            _known_group(services, group)
            loaded = services.scheduler.core.groups[group].current
            steps = await services.switcher.unload_plan_for(group, loaded)
        else:
            _known(services, model)
            loaded = services.scheduler.core.group_of(model).current
            steps = await services.switcher.plan_for(model, loaded)
    except UnitError as error:
        raise ApiError(503, "units_unavailable", str(error), kind="server_error") from error
    learned = services.learned
    return {
        "model": model,
        "changed": bool(steps),
        "expected_seconds": learned.total(steps),
        "steps": [
            {
                "step": step.name,
                "model": step.model,
                "deadline": step.deadline,
                "expected_seconds": learned.expected(step),
            }
            for step in steps
        ],
    }


@router.get("/events")
async def events(services: Admin) -> StreamingResponse:
    """What happens to models from now on, as server-sent events: switches, their steps, losses."""
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    stream = follow(services.events)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@router.post("/clear")
async def clear(call: _ModelCall, services: Admin) -> dict[str, Any]:
    """Forget a model's failures, so that requests for it are taken again."""
    _known(services, call.model)
    changed = call.model in services.scheduler.core.failures
    services.scheduler.clear(call.model)
    return {"changed": changed, "model": call.model}


@router.get("/logs")
async def logs(model: str, services: Admin, lines: int = 50) -> dict[str, Any]:
    """The last log lines of a model's unit."""
    _known(services, model)
    try:
        tail = await services.units.log_tail(services.models[model], max(1, min(lines, 500)))
    except UnitError as error:
        raise ApiError(503, "units_unavailable", str(error), kind="server_error") from error
    return {"model": model, "lines": tail}


def _known(services: Services, model: str) -> None:
    if model not in services.models:
        raise unknown_model(model, services.models)


def _known_group(services: Services, group: str) -> None:
    groups = services.scheduler.core.groups
    if group not in groups:
        known = ", ".join(sorted(groups))
        raise ApiError(404, "group_not_found", f"No group '{group}'. Known groups: {known}.")


def _steps_taken(last: SwitchEnded | None) -> list[dict[str, Any]]:
    steps = last.steps if last is not None else ()
    return [
        {"step": step.step, "model": step.model, "seconds": round(step.seconds, 3)}
        for step in steps
    ]
