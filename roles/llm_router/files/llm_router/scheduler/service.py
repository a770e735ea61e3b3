"""The asyncio shell around the scheduler's core: tickets, leases, timers, running switches.

All calls are made from the event loop's thread. `Core` decides; this file carries out.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from typing_extensions import Self

from llm_router.background import keep_running, run_once
from llm_router.config.schema import ResidencyWish
from llm_router.events import EventStream
from llm_router.scheduler.core import (
    Action,
    BeginSwitch,
    Core,
    Drained,
    Grant,
    Limits,
    Reason,
    Refusal,
    Refuse,
)

log = logging.getLogger(__name__)

Clock = Callable[[], float]

WOKEN_AT_ONCE = 10
"""How many requests are told of their lease in one turn of the event loop."""


class Refused(Exception):
    """A request got no lease; ``refusal`` says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class SwitchFailed(Exception):
    """What a switch runner raises: one sentence, and the unit's last log lines.

    ``blame``: whether it was the target's fault, not the host's. ``loaded``: the model that can
    answer now all the same.
    """

    def __init__(
        self,
        message: str,
        log_lines: Sequence[str] = (),
        *,
        blame: bool = True,
        loaded: str | None = None,
    ) -> None:
        super().__init__(message)
        self.log_lines = tuple(log_lines)
        self.blame = blame
        self.loaded = loaded


class SwitchRunning(Exception):
    """An unload was asked for while the group switches to ``model``."""

    def __init__(self, model: str) -> None:
        super().__init__(f"a switch to '{model}' runs")
        self.model = model


@dataclass
class RunningSwitch:
    """A switch while it runs, for whoever shows it."""

    group: str
    target: str | None
    """None while it unloads."""
    previous: str | None
    reason: Reason
    started: float
    stopping: Callable[[], None]
    """To be called when ``previous`` begins to be stopped: it can answer no more."""
    cut: Callable[[], None]
    """Ends the answers of ``previous`` that are still running; `drained` comes soon after."""
    number: int = 0
    """Of this scheduler's switches; they count from 1."""
    step: str = ""
    plan: Sequence[object] = ()
    """The runner's own steps, once it knows them."""
    progress: float | None = None
    """The part of the load that is done, where the engine says so."""
    doing: str = ""
    """What the load does beside its step, for a person."""
    limit: float | None = None
    """Seconds that the load may take in all, once it was given more than it had at first."""
    residency: ResidencyWish | None = None
    """How ``previous`` goes, where an operator has said so; else as it is configured."""
    drained_at: float | None = None
    """When it went on to what comes after the drain."""
    error: SwitchFailed | None = None
    """Set when it has ended."""
    drained: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)

    @cached_property
    def scope(self) -> anyio.CancelScope:
        """An operator's cancel ends what is being done in it.

        Made when it is first needed, in a task: a switch can begin where none runs, in the event
        loop's word that an engine's process has ended.
        """
        return anyio.CancelScope()


RunSwitch = Callable[[RunningSwitch], Awaitable[None]]
"""Makes ``switch.target`` the loaded model. Raises `SwitchFailed`, which says what is loaded."""


@dataclass(frozen=True)
class Lease:
    """A hold on a ready model, and what it took to get it (seconds)."""

    model: str
    queue_seconds: float
    switch_seconds: float


class Ticket:
    """A request's place in the queue; `Scheduler.request` makes it, `close` gives it back.

    ``on_cut`` is called when its lease is wanted back and its holder must end at once.
    """

    def __init__(self, scheduler: Scheduler, number: int, model: str, now: float) -> None:
        self.number = number
        self.model = model
        self.since = now
        self._scheduler = scheduler
        self._settled = False
        self._waited_for: anyio.Event | None = None
        self._lease: Lease | None = None
        self._refusal: Refusal | None = None
        self.on_cut: Callable[[], None] | None = None

    @property
    def waited(self) -> bool:
        """Whether somebody had to wait for it."""
        return self._waited_for is not None

    def is_settled(self) -> bool:
        """Whether it is granted or refused."""
        return self._settled

    async def wait(self) -> Lease:
        """Wait for the lease. Raises `Refused`."""
        if not self._settled:
            if self._waited_for is None:
                self._waited_for = anyio.Event()
            await self._waited_for.wait()
        if self._lease is None:
            raise Refused(self._refusal or _stopping(self.model))
        return self._lease

    def close(self, keep_alive: float | None = None) -> None:
        """Leave the queue, or end the lease. Safe to repeat.

        ``keep_alive``: seconds that the model shall stay loaded now, instead of its ttl.
        """
        self._scheduler.leave(self, keep_alive)

    def grant(self, lease: Lease) -> None:
        """The scheduler's word that the model is the holder's to use."""
        self._lease = lease
        self._settle()

    def refuse(self, refusal: Refusal) -> None:
        """The scheduler's word that it will not be."""
        self._refusal = refusal
        self._settle()

    def _settle(self) -> None:
        self._settled = True
        if self._waited_for is not None:
            self._waited_for.set()


class Scheduler:
    """Who may use which model now. An async context manager: it owns the switches it runs.

    ``expect`` is told of each model that somebody waits for while another one answers.
    """

    def __init__(
        self,
        core: Core,
        run_switch: RunSwitch,
        clock: Clock = time.monotonic,
        expect: Callable[[str], None] = lambda _: None,
        events: EventStream | None = None,
    ) -> None:
        self.core = core
        self.on_ended: Callable[[str], None] = lambda _: None
        """Told of each group whose switch has ended, well or not."""
        self._expect = expect
        self._events = events or EventStream()
        self.switches: dict[str, RunningSwitch] = {}
        self._run_switch = run_switch
        self._clock = clock
        self._numbers = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}
        self._last_switch_seconds: dict[str, tuple[float, float]] = {}
        self._switch_numbers = itertools.count(1)
        self._last_switch: dict[str, tuple[float, int]] = {}
        """By model: when its last switch ended, well or not, and its number."""
        self._granted: deque[Ticket] = deque()
        """Those who have a lease and have yet to be told."""
        self._telling = False
        self._begun: list[RunningSwitch] = []
        """Switches that have yet to be started."""
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()
        self._due: float | None = None
        """When `_run` looks again by itself."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        run = partial(self._run, self._tasks)
        self._tasks.start_soon(keep_running, "scheduler", run, self._events)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
        for ticket in list(self._tickets.values()):
            if not ticket.is_settled():
                ticket.refuse(_stopping(ticket.model))
        await self._stack.__aexit__(None, None, None)

    def request(self, model: str, *, passive: bool = False, priority: int = 0) -> Ticket:
        """Queue for a lease on ``model``. Raises KeyError for an unknown model.

        A ``passive`` request waits for a switch that others cause, it causes none. Of those that
        do, the highest ``priority`` is next.
        """
        now = self._clock()
        ticket = Ticket(self, next(self._numbers), model, now)
        self._tickets[ticket.number] = ticket
        self._apply(
            self.core.request(ticket.number, model, now, passive=passive, priority=priority)
        )
        if not passive and not ticket.is_settled() and self.core.waits_for_answers(model):
            self._expect(model)
        return ticket

    @asynccontextmanager
    async def lease(self, model: str, *, priority: int = 0) -> AsyncIterator[Lease]:
        """Hold ``model`` loaded for the block. Raises `Refused`, KeyError."""
        ticket = self.request(model, priority=priority)
        try:
            yield await ticket.wait()
        finally:
            ticket.close()

    def leave(self, ticket: Ticket, keep_alive: float | None = None) -> None:
        """Take ``ticket`` out of queue and leases."""
        if self._tickets.pop(ticket.number, None) is not None:
            self._apply(self.core.leave(ticket.number, self._clock(), keep_alive=keep_alive))

    def lost(self, model: str) -> None:
        """The engine of ``model`` is gone."""
        self._apply(self.core.lost(model, self._clock()))

    def restart(self, model: str) -> None:
        """Have the engine of a loaded model stopped when its answers have ended, and started again
        unless others wait for the device."""
        self._apply(self.core.restart(model, self._clock()))
        group = self.core.group_of(model)
        if group.switching and not any(other != model for other in group.queues):
            self.load_in_background(model)

    def adopt(self, group: str, model: str) -> None:
        """Wait for a model whose engine was found running."""
        self._apply(self.core.adopt(group, model))

    def found_loaded(self, model: str) -> None:
        """``model`` was found ready to serve."""
        self._apply(self.core.loaded(model, self._clock()))

    def known(self, group: str) -> None:
        """It is known what runs in ``group``, or nobody can say."""
        self._apply(self.core.known(group, self._clock()))

    def is_loading(self, model: str) -> bool:
        """Whether a switch to ``model`` runs now."""
        return any(switch.target == model for switch in self.switches.values())

    def load_in_background(self, model: str) -> None:
        """Have ``model`` loaded without anyone waiting for it; a failure is kept like any other."""
        if self._tasks is None:
            raise RuntimeError("the scheduler is used outside its context")
        self._start(self._tasks, self._load, model)

    async def _load(self, model: str) -> None:
        try:
            async with self.lease(model):
                pass
        except Refused as refused:
            log.error("%s could not be preloaded: %s", model, refused)

    async def unload(
        self, group: str, *, stays: bool = False, residency: ResidencyWish | None = None
    ) -> str | None:
        """Free the device of ``group`` when its running answers have ended, and wait for that.

        ``stays``: its model may sleep; ``residency``: how it goes then, in place of its own.

        Returns the model that was unloaded, None if there was none. Raises `SwitchRunning` while
        the group switches to a model, `SwitchFailed`.
        """
        before = self.switches.get(group)
        self._apply(self.core.unload(group, stays=stays))
        running = self.switches.get(group)
        if running is None:
            return None
        if running.target is not None:
            raise SwitchRunning(running.target)
        if running is not before:
            # its task has yet to begin
            running.residency = residency
        await running.ended.wait()
        if running.error is not None:
            raise running.error
        return running.previous

    def pin(self, model: str, seconds: float) -> None:
        """Let nothing but ``model`` be loaded in its group for so long."""
        now = self._clock()
        self._apply(self.core.pin(model, now + seconds, now))

    def unpin(self, model: str) -> None:
        """End the pin of ``model``."""
        self._apply(self.core.unpin(model, self._clock()))

    def configure(
        self,
        groups: Mapping[str, str],
        limits: Limits,
        changed: Collection[str],
        units: Mapping[str, str] | None = None,
    ) -> None:
        """Go on with a new configuration: see `Core.configure`."""
        now = self._clock()
        self._apply(self.core.configure(groups, limits, now, changed=changed, units=units))

    def stop(self) -> None:
        """Refuse who waits and whoever comes; who has a lease keeps it."""
        self._apply(self.core.stop())

    def switch_of(self, ticket: Ticket) -> int | None:
        """The number of the switch to its model that a ticket waits for, or has waited for."""
        for switch in self.switches.values():
            if switch.target == ticket.model:
                return switch.number
        ended, number = self._last_switch.get(ticket.model, (float("-inf"), 0))
        return number if ended >= ticket.since else None

    def clear(self, model: str) -> None:
        """Forget the failures of ``model``."""
        self.core.clear(model)

    def longest_wait(self, model: str) -> float:
        """For how many seconds the oldest request for ``model`` has waited; 0 where none waits."""
        queue = self.core.group_of(model).queues.get(model)
        since = queue.since() if queue is not None else None
        return 0.0 if since is None else self.seconds_since(since)

    def seconds_since(self, moment: float) -> float:
        """How long ago ``moment`` was, by the scheduler's clock."""
        return self._clock() - moment

    def _apply(self, actions: Sequence[Action]) -> None:
        now = self._clock()
        granted: list[Ticket] = []
        for action in actions:
            if isinstance(action, Grant):
                granted.append(self._tickets[action.ticket])
            elif isinstance(action, Refuse):
                ticket = self._tickets.pop(action.ticket)
                ticket.refuse(action.refusal)
            elif isinstance(action, BeginSwitch):
                self._begin(action, now)
            elif isinstance(action, Drained):
                self.switches[action.group].drained.set()
        self._wake()
        # whoever asks for a loaded model does not stand behind those who waited for it
        self._tell(granted[:WOKEN_AT_ONCE])
        self._granted.extend(granted[WOKEN_AT_ONCE:])
        if self._granted:
            self._changed.set()

    def _wake(self) -> None:
        """Have `_run` look again, but only if it has something to do: most requests find their
        model loaded, and leave it so."""
        due = self.core.next_wakeup()
        sooner = due is not None and (self._due is None or due < self._due)
        if self._begun or sooner:
            self._changed.set()

    def _tell(self, tickets: Iterable[Ticket]) -> None:
        now = self._clock()
        for ticket in tickets:
            # who has left meanwhile has given the lease back
            if ticket.number in self._tickets:
                ticket.grant(self._make_lease(ticket, now))

    async def _tell_the_rest(self) -> None:
        """A loop that wakes thousands in one turn has no time for anybody else."""
        try:
            while self._granted:
                await checkpoint()
                some = min(WOKEN_AT_ONCE, len(self._granted))
                self._tell([self._granted.popleft() for _ in range(some)])
        finally:
            self._telling = False

    def _make_lease(self, ticket: Ticket, now: float) -> Lease:
        waited = now - ticket.since
        ready_at, seconds = self._last_switch_seconds.get(ticket.model, (float("-inf"), 0.0))
        # only who waited for the switch has had to wait for it
        switch_seconds = min(seconds, waited) if ready_at >= ticket.since else 0.0
        return Lease(ticket.model, max(0.0, waited - switch_seconds), switch_seconds)

    def _begin(self, action: BeginSwitch, now: float) -> None:
        name = action.group
        switch = RunningSwitch(
            name,
            action.target,
            action.previous,
            action.reason,
            now,
            stopping=lambda: self.core.stopped(name),
            cut=lambda: self._cut(name),
            number=next(self._switch_numbers),
        )
        if not self.core.groups[name].held:
            switch.drained.set()
        self.switches[action.group] = switch
        self._begun.append(switch)

    async def _switch(self, switch: RunningSwitch) -> None:
        error: SwitchFailed | None = None
        try:
            await self._run_switch(switch)
        except SwitchFailed as failed:
            error = failed
        except Exception as unexpected:
            # a fault of ours must not leave people waiting for ever
            log.exception("switch to %s failed in a way that was not foreseen", switch.target)
            error = SwitchFailed(f"internal error: {unexpected!r}")
        now = self._clock()
        del self.switches[switch.group]
        switch.error = error
        switch.ended.set()
        if switch.target is not None:
            self._last_switch[switch.target] = (now, switch.number)
        if error is None:
            if switch.target is not None:
                self._last_switch_seconds[switch.target] = (now, now - switch.started)
            self._apply(self.core.switched(switch.group, now))
        else:
            self._apply(
                self.core.switch_failed(
                    switch.group,
                    str(error),
                    error.log_lines,
                    now,
                    blame=error.blame,
                    loaded=error.loaded,
                )
            )
        self.on_ended(switch.group)

    def _cut(self, group: str) -> None:
        state = self.core.groups[group]
        leases = state.leases.get(state.loaded or "")
        for waiter in leases.all() if leases is not None else ():
            ticket = self._tickets[waiter.ticket]
            if ticket.on_cut is not None:
                ticket.on_cut()

    def _start(self, tasks: TaskGroup, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """In a task. A fault in one must not end the others: the group would cancel them all."""
        tasks.start_soon(run_once, "scheduler", partial(work, *args), self._events)

    async def _run(self, tasks: TaskGroup) -> None:
        """What has to be done in a task. The word that an engine has ended comes from the event
        loop itself, where none runs and none can be started."""
        while True:
            self._changed = anyio.Event()
            while self._begun:
                self._start(tasks, self._switch, self._begun.pop())
            if self._granted and not self._telling:
                self._telling = True
                self._start(tasks, self._tell_the_rest)
            self._due = due = self.core.next_wakeup()
            with anyio.move_on_after(None if due is None else max(0.0, due - self._clock())):
                await self._changed.wait()
                continue
            self._apply(self.core.tick(self._clock()))


def _stopping(model: str) -> Refusal:
    return Refusal(model, "the router is stopping", kind="stopping")
