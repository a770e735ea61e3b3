"""What the HTTP surface works with, made once at start."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx

from llm_router.api.activity import Activity
from llm_router.api.afterwards import Afterwards
from llm_router.api.audit import Audit
from llm_router.api.auth import Caller, may_use
from llm_router.api.body_budget import BodyBudget, HeldBody
from llm_router.api.errors import too_many_at_once
from llm_router.api.exchange import Exchange
from llm_router.api.gpus import Gpus
from llm_router.api.journal import SwitchLog
from llm_router.api.large import LargeBodies
from llm_router.api.metrics import Metrics
from llm_router.api.progress import Progress
from llm_router.api.shared_call import SharedCall
from llm_router.api.upstream import Engines
from llm_router.config.load import Settings
from llm_router.config.names import names_of
from llm_router.config.schema import Model
from llm_router.engine_keys import EngineKeys
from llm_router.engines import engine_for
from llm_router.events import Event, EventStream, SwitchEnded
from llm_router.nvml import open_nvml
from llm_router.runtime.reconcile import Reconciler
from llm_router.scheduler.core import Core, Limits, State
from llm_router.scheduler.service import Scheduler
from llm_router.switcher.engine_client import NO_LIMIT
from llm_router.switcher.executor import Switcher
from llm_router.switcher.learned import Learned
from llm_router.switcher.settling import GpuMemory
from llm_router.units.base import UnitError, Units
from llm_router.units.child import ChildUnits
from llm_router.units.ports import PortGuard

log = logging.getLogger(__name__)

Clock = Callable[[], float]

DRIVER_WITHIN = 5.0


@dataclass
class Services:
    """The router's parts, joined."""

    settings: Settings
    units: Units
    events: EventStream
    engines: Engines
    scheduler: Scheduler
    switcher: Switcher
    metrics: Metrics
    learned: Learned
    reconciler: Reconciler
    started_at: int
    engine_keys: EngineKeys = field(default_factory=EngineKeys)
    ports: PortGuard = field(init=False)
    units_problem: SharedCall[str | None] = field(init=False)
    """`Units.problem`, which calls systemd: strangers' health checks share one call."""
    scrape: SharedCall[bytes] = field(init=False)
    """`Metrics.scrape`, of which several at once would cost several times as much."""
    audit: Audit = field(default_factory=Audit)
    clock: Clock = time.monotonic
    last_switch: dict[str, SwitchEnded] = field(default_factory=dict)
    """By model: how its last switch went."""
    last_unload: dict[str, SwitchEnded] = field(default_factory=dict)
    """By group: how its last unload went."""
    in_flight: dict[int, Exchange] = field(default_factory=dict)
    """By number: the requests that wait or are answered now."""
    draining: bool = False
    """Whether requests are better sent elsewhere; those that come are served all the same."""
    under_way: Counter[str] = field(default_factory=Counter)
    """By key: how many of its requests there are, for keys with a limit."""
    activity: Activity = field(init=False)
    bodies: BodyBudget = field(default_factory=BodyBudget)
    """The bytes of the bodies of all requests under way."""
    afterwards: Afterwards = field(init=False)
    """What need not be done before the next request is read."""
    progress: Progress = field(init=False)
    gpus: Gpus = field(default_factory=Gpus)
    large_bodies: LargeBodies = field(default_factory=LargeBodies)
    boot: str = field(default_factory=lambda: secrets.token_hex(3))
    """Begins the ids of this run's requests and switches."""

    def __post_init__(self) -> None:
        self.ports = PortGuard(self.units)
        self.units_problem = SharedCall(self.units.problem)
        self.scrape = SharedCall(self.metrics.scrape)
        self.activity = Activity(self.settings.config.recent.keep)
        self.afterwards = Afterwards(self.events)
        self.progress = Progress(self.scheduler, self.learned)

    @property
    def models(self) -> dict[str, Model]:
        """The configured models by name."""
        return self.settings.models

    def state_of(self, name: str) -> State:
        """What a model is doing."""
        return self.scheduler.core.state_of(name, self.switcher.asleep())

    def names_for(self, caller: Caller) -> list[str]:
        """The names of models, variants and aliases that the caller may use."""
        return [known.name for known in names_of(self.models) if may_use(caller, known)]

    def take_slot(self, caller: Caller) -> Caller | None:
        """Count a request of a key that has a limit, until `give_slot`. Raises `ApiError` 429."""
        if caller.max_requests is None:
            return None
        if self.under_way[caller.name] >= caller.max_requests:
            raise too_many_at_once(caller.name, caller.max_requests)
        self.under_way[caller.name] += 1
        return caller

    def hold_body(self, caller: Caller) -> HeldBody:
        """The account of a request's body, to be released when the request is over. Where there
        are several keys, one of them cannot use up all that bodies may have."""
        limits = self.settings.config.requests
        limit = max(limits.max_bodies, limits.max_body)
        share = limit if len(self.settings.keys) < 2 else max(limit // 2, limits.max_body)
        return self.bodies.hold(caller.name, limit, share)

    def give_slot(self, caller: Caller) -> None:
        """The request is over."""
        self.under_way[caller.name] -= 1


def make_units(settings: Settings) -> Units:
    """The unit manager that config.yml asks for."""
    config = settings.config
    if config.units == "systemd":
        from llm_router.units.systemd import SystemdUnits  # D-Bus is no need of child processes

        return SystemdUnits(
            settings.models, config.helper_socket, start_timeout=config.switch.timeout
        )

    def argv(model: Model) -> list[str]:
        command = engine_for(model).child_command(model, config)
        if command is None:
            raise UnitError(f"{model.backend} cannot run as a child process without a command")
        return command

    return ChildUnits(config, settings.models, argv)


@asynccontextmanager
async def running(settings: Settings, units: Units | None = None) -> AsyncIterator[Services]:
    """Start the parts in order, find out what runs already, and stop them in reverse."""
    units = units or make_units(settings)
    events = EventStream()
    groups = {name: model.group for name, model in settings.models.items()}
    core = Core(groups, limits_of(settings), units_of(settings), unknown=True)
    # trust_env: a proxy from the environment must never see what goes to an engine on loopback
    async with httpx.AsyncClient(trust_env=False, limits=NO_LIMIT) as client, units:
        keys = EngineKeys()
        memory = GpuMemory(await _nvml(), units, events)
        learned = Learned(Path(settings.config.state_dir) / "learned.json", settings.models)
        switcher = Switcher(settings, units, events, client, keys, memory=memory, learned=learned)
        async with (
            Scheduler(core, switcher.run, expect=switcher.expect, events=events) as scheduler,
            Engines() as engines,
        ):
            metrics = Metrics(scheduler, events, switcher.asleep)
            reconciler = Reconciler(
                scheduler,
                switcher,
                units,
                events,
                learned,
                lambda: services.models,
                lambda group: preload(
                    services, [name for name, m in services.models.items() if m.group == group]
                ),
            )
            scheduler.on_ended = reconciler.switch_ended
            services = Services(
                settings,
                units,
                events,
                engines,
                scheduler,
                switcher,
                metrics,
                learned,
                reconciler,
                int(time.time()),
                keys,
            )
            events.subscribe(lambda event: _remember(services, event))
            events.subscribe(services.learned.listen)
            events.subscribe(services.progress.listen)
            events.subscribe(SwitchLog(services.boot).listen)
            async with reconciler.running():
                with services.large_bodies:
                    yield services


async def _nvml() -> Any:
    """A driver that hangs is no driver: the router starts without."""
    with anyio.move_on_after(DRIVER_WITHIN):
        return await anyio.to_thread.run_sync(open_nvml, abandon_on_cancel=True)
    log.error("the GPU driver does not answer; memory is not waited for until a restart")
    return None


def _remember(services: Services, event: Event) -> None:
    if isinstance(event, SwitchEnded):
        if event.error is None and event.previous is not None:
            # its engine is gone: the next one of this model has another process
            services.reconciler.main_pids.pop(event.previous, None)
        if event.model is None:
            services.last_unload[event.group] = event
            return
        services.last_switch[event.model] = event
        if event.error is None:
            services.reconciler.main_pids[event.model] = event.main_pid


def units_of(settings: Settings) -> dict[str, str]:
    """The unit of each model."""
    return {name: model.unit for name, model in settings.models.items()}


def limits_of(settings: Settings) -> Limits:
    """What the scheduler goes by."""
    config = settings.config
    return Limits(
        max_wait=config.scheduler.max_wait,
        min_residency=config.scheduler.min_residency,
        max_failures=config.switch.max_failures,
        rollback=config.switch.on_failure == "rollback",
        max_queue=config.scheduler.max_queue,
        max_queue_per_model=config.scheduler.max_queue_per_model,
        ttl={n: model.ttl for n, model in settings.models.items() if model.ttl is not None},
    )


def preload(services: Services, names: Iterable[str]) -> None:
    """Load those of the named models that shall be there unasked, where nothing else of their
    group is."""
    for name in names:
        model = services.models[name]
        group = services.scheduler.core.groups[model.group]
        if model.preload and not group.unknown and group.loaded is None and not group.switching:
            log.info("preloading %s", name)
            services.scheduler.load_in_background(name)
