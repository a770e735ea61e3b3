"""Admission and eviction, without I/O: every change of state is one synchronous method.

Each public method takes the time, changes the state and returns the actions that follow from it;
`service.py` carries them out. Nothing here awaits, logs or has a clock.

The rules for one device group, in the order in which they are asked:

0. A queue that is full takes no more; a model that failed too often is refused at once, and so is
   who would have to wait longer than ``max_wait`` for the end of another model's pin.
1. While a switch runs, nothing is granted and nothing else is begun.
2. Who waits for the loaded model gets a lease, unless a fence is up.
3. The fence goes up when the oldest request for another model has waited ``max_wait``, or when one
   has a higher priority than all who use or want the loaded model.
4. With another model wanted by a request that may cause a switch: if nothing is loaded, or nobody
   holds a lease and the loaded model has been there for ``min_residency``, or the fence is up, a
   switch begins: to the model of the oldest such request if that one has waited ``max_wait``, else
   to the one with the highest priority, and among equals the oldest. The switch itself drains the
   leases that are left.
5. With nobody waiting, nothing loaded and a model to bring back after a failed switch: that one.
6. A model that nobody has used for its ``ttl`` is unloaded.
7. A stale model (changed or removed in the configuration, or with a sick engine) gets no new leases
   and is unloaded. When that fails its requests are refused, and the unload is tried again after
   ``RETRY_STALE``.
8. A unit belongs to one group at a time: no switch begins to a model whose unit another group
   still uses. It begins when that group has released the unit.
9. Nothing is granted or begun in a group while it is not known what runs there.

In a pinned group only the model that it is pinned to can be switched to, and none is unloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Reason = Literal["request", "adopt", "rollback", "idle", "operator", "removed", "restart"]
State = Literal["loaded", "loading", "stopped", "asleep", "failed"]
RefusalKind = Literal["failed", "unavailable", "overloaded", "pinned", "stopping", "removed"]

RETRY_UNLOAD = 60.0
"""Seconds until the unload of an idle model that failed is tried again."""
RETRY_STALE = 5.0
"""Seconds until the unload of a stale model that failed is tried again."""


@dataclass(frozen=True)
class Limits:
    """Times in seconds; ``max_failures`` in a row make a model refused at once.

    ``max_queue`` is for all waiting requests together. ``ttl`` has the models that are unloaded
    when idle.
    """

    max_wait: float = 60.0
    min_residency: float = 0.0
    max_failures: int = 3
    rollback: bool = True
    max_queue: int = 20_000
    max_queue_per_model: int = 20_000
    ttl: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a model's last switch failed, and how many have failed in a row."""

    message: str
    log_lines: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Refusal:
    """Why a request gets no lease; ``retry_after`` is in seconds, None when nobody can say."""

    model: str
    message: str
    log_lines: tuple[str, ...] = ()
    kind: RefusalKind = "failed"
    retry_after: float | None = None


@dataclass(frozen=True)
class Grant:
    """This ticket has a lease now."""

    ticket: int


@dataclass(frozen=True)
class Refuse:
    """This ticket will get none."""

    ticket: int
    refusal: Refusal


@dataclass(frozen=True)
class BeginSwitch:
    """Load ``target`` in ``group``, or unload what is there when it is None.

    Answer with `Core.switched` or `Core.switch_failed`.
    """

    group: str
    target: str | None
    previous: str | None
    reason: Reason


@dataclass(frozen=True)
class Drained:
    """The last lease of the model that a running switch replaces has ended."""

    group: str


Action = Grant | Refuse | BeginSwitch | Drained


@dataclass(frozen=True)
class Waiter:
    """A request that waits. A passive one is served when others have its model loaded."""

    ticket: int
    model: str
    since: float
    passive: bool = False
    priority: int = 0


@dataclass
class Queue:
    """Who waits for a model, or holds it, in the order of arrival; how many have each priority.

    Passive ones stand apart: they count for nothing but their own grant.
    """

    active: dict[int, Waiter] = field(default_factory=dict)
    passive: dict[int, Waiter] = field(default_factory=dict)
    priorities: Counter[int] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.active) + len(self.passive)

    def add(self, waiter: Waiter) -> None:
        """At the end."""
        if waiter.passive:
            self.passive[waiter.ticket] = waiter
        else:
            self.active[waiter.ticket] = waiter
            self.priorities[waiter.priority] += 1

    def remove(self, ticket: int) -> bool:
        """Whether it was there."""
        if self.passive.pop(ticket, None) is not None:
            return True
        waiter = self.active.pop(ticket, None)
        if waiter is None:
            return False
        self.priorities[waiter.priority] -= 1
        if not self.priorities[waiter.priority]:
            del self.priorities[waiter.priority]
        return True

    def oldest(self) -> Waiter | None:
        """The first that may cause a switch."""
        return next(iter(self.active.values()), None)

    def since(self) -> float | None:
        """When the first of all came; None where nobody is."""
        firsts = (next(iter(who.values()), None) for who in (self.active, self.passive))
        return min((waiter.since for waiter in firsts if waiter is not None), default=None)

    def all(self) -> list[Waiter]:
        """Everyone, active ones first."""
        return [*self.active.values(), *self.passive.values()]

    def join(self, other: Queue) -> None:
        """All of ``other``, at the end."""
        self.active |= other.active
        self.passive |= other.passive
        self.priorities += other.priorities


@dataclass
class Group:
    """What is known of one device group."""

    loaded: str | None = None
    """What answers, or did until the running switch has stopped it: see ``stopped``."""
    loaded_at: float = 0.0
    idle_since: float = 0.0
    keep: float | None = None
    """What the last request said instead of the model's ttl, in seconds."""
    switching: bool = False
    stale: set[str] = field(default_factory=set)
    """Of what is loaded and what is being loaded: the models that are configured otherwise now."""
    unhealthy: bool = False
    """Whether the stale model that is loaded is stale for its engine's sake: `Core.restart`."""
    stuck: str | None = None
    """Why the stale model that is loaded could not be unloaded."""
    retry_at: float = 0.0
    """When the unload of a stale model is tried again."""
    unknown: bool = False
    """Whether nobody has looked yet what runs there."""
    changes: int = 0
    """How often what is loaded or being loaded has changed: whoever observes the group compares
    this before and after."""
    loaded_unit: str | None = None
    target_unit: str | None = None
    """The units of both, as they were configured when the switch began."""
    stopped: bool = False
    """Whether the running switch has begun to stop what was loaded."""
    target: str | None = None
    """What a running switch loads; None while it unloads."""
    reason: Reason = "request"
    bring_back: str | None = None
    pinned: str | None = None
    pinned_until: float = 0.0
    leases: dict[str, Queue] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    """Both by model, and none is ever empty."""

    @property
    def current(self) -> str | None:
        """The model that can answer now."""
        return None if self.stopped else self.loaded

    @property
    def held(self) -> bool:
        """Whether the loaded model has leases. Those of a model that was lost do not count."""
        return self.loaded in self.leases

    def waiting(self, model: str) -> int:
        """How many wait for ``model``."""
        return len(self.queues.get(model, ()))

    def in_flight(self, model: str) -> int:
        """How many hold a lease on ``model``."""
        return len(self.leases.get(model, ()))


class Core:
    """The state of all device groups. ``groups`` maps each model's name to its group.

    ``units`` maps each model to its unit; without it every model has its own. ``unknown``: nothing
    happens in a group before `known`.
    """

    def __init__(
        self,
        groups: Mapping[str, str],
        limits: Limits,
        units: Mapping[str, str] | None = None,
        *,
        unknown: bool = False,
    ) -> None:
        self._group_of = dict(groups)
        self._units = dict(units or {})
        self._limits = limits
        self._places: dict[int, tuple[str, str]] = {}
        self._waiting = 0
        self._stopping = False
        self.groups: dict[str, Group] = {name: Group(unknown=unknown) for name in groups.values()}
        self.failures: dict[str, Failure] = {}

    @property
    def models(self) -> Mapping[str, str]:
        """The group of each model."""
        return self._group_of

    def group_of(self, model: str) -> Group:
        """The group that ``model`` competes in. Raises KeyError for an unknown model."""
        return self.groups[self._group_of[model]]

    def state_of(self, model: str, asleep: Collection[str] = ()) -> State:
        """What ``model`` is doing; ``failed`` is one whose last switch failed, ``asleep`` one of
        those whose engine stays without its device."""
        group = self.group_of(model)
        if group.current == model:
            return "loaded"
        if group.target == model:
            return "loading"
        if model in self.failures:
            return "failed"
        return "asleep" if model in asleep else "stopped"

    def is_refused(self, model: str) -> bool:
        """Whether ``model`` has failed too often in a row and gets no request until it is cleared.

        Raises KeyError for an unknown model.
        """
        failure = self.failures.get(model)
        too_often = failure is not None and failure.count >= self._limits.max_failures
        return too_often and self.group_of(model).loaded != model

    def configure(
        self,
        groups: Mapping[str, str],
        limits: Limits,
        now: float,
        *,
        changed: Collection[str] = (),
        units: Mapping[str, str] | None = None,
    ) -> list[Action]:
        """A new configuration: who waits for a model that is no more is told, others go on.

        A model that changed its group is one that is no more, and a new one. What is loaded and is
        no more, or is one of ``changed``, is unloaded when its leases have ended. Failures of such
        models are forgotten.
        """
        gone = {name for name, group in self._group_of.items() if groups.get(name) != group}
        actions: list[Action] = []
        for name in gone:
            actions += self._refuse_queue(name, "it was taken out of models.yml", "removed")
        for name in (*gone, *changed):
            self.failures.pop(name, None)
        for name in groups.values():
            self.groups.setdefault(name, Group())
        self._group_of, self._limits, self._units = dict(groups), limits, dict(units or {})
        for name, group in self.groups.items():
            for model in (group.loaded, group.target):
                if model is not None and (groups.get(model) != name or model in changed):
                    group.stale.add(model)
            if group.pinned in gone:
                group.pinned = None
            if group.bring_back in gone:
                group.bring_back = None
        # which unit is whose must be known of all before anything begins
        for name in self.groups:
            actions += self._decide(name, now)
        return actions

    def request(
        self, ticket: int, model: str, now: float, *, passive: bool = False, priority: int = 0
    ) -> list[Action]:
        """Someone wants a lease on ``model``; ``ticket`` is new.

        A ``passive`` request never causes a switch: it waits for one that others cause.
        """
        name = self._group_of[model]
        group = self.groups[name]
        refusal = self._refusal(group, model, now)
        if refusal is not None:
            return [Refuse(ticket, refusal)]
        waiter = Waiter(ticket, model, now, passive, priority)
        group.queues.setdefault(model, Queue()).add(waiter)
        self._places[ticket] = name, model
        self._waiting += 1
        return self._decide(name, now)

    def leave(self, ticket: int, now: float, *, keep_alive: float | None = None) -> list[Action]:
        """The holder of ``ticket`` is gone or done. Safe to repeat.

        ``keep_alive``: how long the model shall stay loaded now without another request, instead
        of its ttl.
        """
        name, model = self._places.pop(ticket, (None, ""))
        if name is None:
            return []
        group = self.groups[name]
        queue = group.queues.get(model)
        if queue is not None and queue.remove(ticket):
            self._waiting -= 1
            if not queue:
                del group.queues[model]
            return self._decide(name, now)
        leases = group.leases[model]
        leases.remove(ticket)
        if not leases:
            del group.leases[model]
        if model == group.loaded:
            group.idle_since, group.keep = now, keep_alive
            if group.switching:
                return [] if group.held else [Drained(name)]
        return self._decide(name, now)

    def adopt(self, group_name: str, target: str) -> list[Action]:
        """Begin a switch to a model whose engine runs already but has yet to answer."""
        group = self.groups[group_name]
        if group.switching:
            return []
        self._now_loaded(group, None, group.loaded_at)
        if self._stopping or self._elsewhere(group_name, target):
            return []
        return [self._begin(group_name, target, "adopt")]

    def unload(self, group_name: str, *, stays: bool = False) -> list[Action]:
        """An operator wants the group's device free. Nothing happens while a switch runs.

        ``stays``: the model goes as one does that was idle: it may sleep, and a pin holds.
        """
        group = self.groups[group_name]
        if group.switching or group.loaded is None:
            return []
        if not stays:
            group.pinned = None
        return [self._begin(group_name, None, "idle" if stays else "operator")]

    def pin(self, model: str, until: float, now: float) -> list[Action]:
        """Nothing but ``model`` is loaded in its group until then; who cannot wait is told."""
        name = self._group_of[model]
        group = self.groups[name]
        group.pinned, group.pinned_until = model, until
        actions: list[Action] = []
        for other in list(group.queues):
            refusal = self._pinned(group, other, now)
            if refusal is not None:
                actions += self._refuse_queue(other, refusal.message, "pinned", until - now)
        return actions + self._decide(name, now)

    def unpin(self, model: str, now: float) -> list[Action]:
        """End the pin of ``model``; one of another model stays."""
        name = self._group_of[model]
        if self.groups[name].pinned != model:
            return []
        self.groups[name].pinned = None
        return self._decide(name, now)

    def stopped(self, group_name: str) -> None:
        """The running switch has begun to stop what was loaded."""
        self.groups[group_name].stopped = True

    def switched(self, group_name: str, now: float) -> list[Action]:
        """The running switch's model is loaded: all who wait for it are served together."""
        group = self.groups[group_name]
        unit = group.target_unit
        model = self._end_switch(group)
        group.bring_back = None
        self._now_loaded(group, model, now)
        group.loaded_unit = unit  # it may be configured otherwise since the switch began
        if model is not None:
            self.failures.pop(model, None)
        granted = self._grant_loaded(group)
        return granted + self._decide_all(group_name, now)

    def switch_failed(
        self,
        group_name: str,
        message: str,
        log_lines: Iterable[str],
        now: float,
        *,
        blame: bool = True,
        loaded: str | None = None,
    ) -> list[Action]:
        """The running switch failed: its waiters are told, others go on.

        ``loaded`` is what can answer now all the same. ``blame`` is whether the failure was the
        target's; one of the host's (systemd or the helper cannot be reached) counts against no
        model, and who waits for a model that could not be adopted waits on.
        """
        group = self.groups[group_name]
        previous, reason = group.loaded, group.reason
        model = self._end_switch(group)
        # one that is configured no more but runs on is still there, with its leases
        if loaded != previous and self._group_of.get(loaded or "") != group_name:
            loaded = None
        if loaded is None or loaded != previous:
            self._now_loaded(group, loaded, now)
        actions: list[Action] = []
        if group.loaded is not None and group.loaded in group.stale:
            # what could not be stopped is tried again, and nobody is served by it until then
            group.retry_at, group.stuck = now + RETRY_STALE, message
            if self._group_of.get(group.loaded) == group_name:
                actions += self._refuse_queue(group.loaded, message, "unavailable", RETRY_STALE)
            actions += self._refuse_blocked(group, message)
        elif model is None:
            group.idle_since, group.keep = now, max(RETRY_UNLOAD, self._ttl(group) or 0.0)
        if model is None or self._group_of.get(model) != group_name:
            return actions + self._decide_all(group_name, now)
        if blame:
            before = self.failures.get(model)
            count = before.count + 1 if before else 1
            self.failures[model] = Failure(message, tuple(log_lines), count)
        if loaded is not None or group.bring_back == model or not self._limits.rollback:
            group.bring_back = None
        elif reason == "request" and self._group_of.get(previous or "") == group_name:
            group.bring_back = previous
        kind: RefusalKind = "failed" if blame else "unavailable"
        if blame or reason != "adopt":
            actions += self._refuse_queue(model, message, kind, log_lines=log_lines)
        elif model != loaded:
            # nothing that those who may cause no switch could wait for comes any more
            actions += self._refuse_passive(model, message, kind)
        return actions + self._decide_all(group_name, now)

    def loaded(self, model: str, now: float) -> list[Action]:
        """``model`` was found loaded; who waits for it is served."""
        name = self._group_of[model]
        group = self.groups[name]
        if group.switching:
            return []
        self._now_loaded(group, model, now)
        return self._decide_all(name, now)

    def known(self, group_name: str, now: float) -> list[Action]:
        """It is known what runs in the group, or nobody can say: from now on it is used."""
        self.groups[group_name].unknown = False
        return self._decide(group_name, now)

    def lost(self, model: str, now: float) -> list[Action]:
        """The engine of a loaded model is gone. Its leases end by themselves: the streams broke.

        Nothing happens where it is not loaded; it may be in the configuration no more.
        """
        actions: list[Action] = []
        for name, group in self.groups.items():
            if group.loaded == model and not group.switching:
                self._now_loaded(group, None, group.loaded_at)
                actions += self._decide_all(name, now)
        return actions

    def restart(self, model: str, now: float) -> list[Action]:
        """The engine of a loaded model runs and fails: its answers may end, nobody else is served
        by it, and then it is stopped. Nothing happens where a switch of its group runs."""
        group = self.group_of(model)
        if group.loaded != model or group.switching or model in group.stale:
            return []
        group.stale.add(model)
        group.unhealthy = True
        return self._decide(self._group_of[model], now)

    def clear(self, model: str) -> None:
        """Forget the model's failures."""
        self.failures.pop(model, None)

    def stop(self) -> list[Action]:
        """The router is stopping: who waits is told, and so is whoever comes."""
        self._stopping = True
        return [
            action
            for group in self.groups.values()
            for model in list(group.queues)
            for action in self._refuse_queue(model, "the router is stopping", "stopping")
        ]

    def tick(self, now: float) -> list[Action]:
        """Time has passed: `next_wakeup` was due."""
        return [action for name in self.groups for action in self._decide(name, now)]

    def next_wakeup(self) -> float | None:
        """When `tick` is due next if nothing else happens; None when time alone changes nothing."""
        if self._stopping:
            return None
        due = [
            moment
            for group in self.groups.values()
            if not group.switching and not group.unknown
            for moment in self._due(group)
        ]
        return min(due, default=None)

    def _due(self, group: Group) -> Iterable[float]:
        if group.pinned is not None:
            yield group.pinned_until
        if group.loaded is not None and group.loaded in group.stale:
            yield group.retry_at
            return
        oldest = self._oldest_other(group)
        if oldest is not None:
            yield self._patient_until(oldest)
            if not group.held or self._outranked(group):
                yield self._resident_from(group)
        elif not group.held and group.pinned is None:
            ttl = self._ttl(group)
            if ttl is not None:
                yield group.idle_since + ttl

    def _decide(self, name: str, now: float) -> list[Action]:
        group = self.groups[name]
        if group.switching or group.unknown or self._stopping:
            return []
        if group.pinned is not None and now >= group.pinned_until:
            group.pinned = None
        oldest = self._oldest_other(group)
        stale = group.loaded in group.stale
        fenced = stale or (oldest is not None and self._fenced(group, oldest, now))
        actions: list[Action] = [] if fenced else self._grant_loaded(group)
        if stale and now >= group.retry_at:
            actions.append(self._begin(name, None, "restart" if group.unhealthy else "removed"))
        elif oldest is not None:
            resident = now >= self._resident_from(group)
            if group.loaded is None or fenced or (resident and not group.held):
                actions.append(self._begin(name, self._next_model(group, oldest, now), "request"))
        elif group.loaded is None and self._may_bring_back(group):
            actions.append(self._begin(name, group.bring_back, "rollback"))
        elif group.loaded is not None and not group.held and group.pinned is None:
            ttl = self._ttl(group)
            if ttl is not None and now >= group.idle_since + ttl:
                actions.append(self._begin(name, None, "idle"))
        return actions

    def _decide_all(self, first: str, now: float) -> list[Action]:
        """``first``, and then the groups that may have waited for a unit that it used."""
        others = [name for name in self.groups if name != first and self.groups[name].queues]
        return [action for name in (first, *others) for action in self._decide(name, now)]

    def _elsewhere(self, name: str, model: str) -> bool:
        """Whether another group than ``name`` uses the unit of ``model`` still."""
        if len(self.groups) == 1:
            return False
        return self._units.get(model, model) in self.units_elsewhere(name)

    def units_elsewhere(self, name: str) -> frozenset[str]:
        """The units that other groups than ``name`` use now."""
        used = (
            unit
            for key, other in self.groups.items()
            if key != name
            for unit in (other.loaded_unit, other.target_unit)
        )
        return frozenset(unit for unit in used if unit is not None)

    def _may_bring_back(self, group: Group) -> bool:
        """A pin of another model is obeyed; when it ends the model comes back."""
        model = group.bring_back
        return (
            model is not None
            and group.pinned in (None, model)
            and not self._elsewhere(self._group_of[model], model)
        )

    def _fenced(self, group: Group, oldest: Waiter, now: float) -> bool:
        if now >= self._patient_until(oldest):
            return True
        return now >= self._resident_from(group) and self._outranked(group)

    # one sum for `next_wakeup` and for what it wakes to: differences round otherwise, and a tick
    # at the very moment that was asked for would find that it is not due
    def _patient_until(self, waiter: Waiter) -> float:
        return waiter.since + self._limits.max_wait

    def _resident_from(self, group: Group) -> float:
        return group.loaded_at + self._limits.min_residency

    def _outranked(self, group: Group) -> bool:
        """Whether a request for another model goes before all who use or want the loaded one."""
        loaded = group.loaded or ""
        rivals = [
            priority
            for people in (group.leases.get(loaded), group.queues.get(loaded))
            if people is not None
            for priority in people.priorities
        ]
        return bool(rivals) and self._highest(group) > max(rivals)

    def _highest(self, group: Group) -> int:
        return max(
            priority
            for model, queue in group.queues.items()
            if self._wanted(group, model)
            for priority in queue.priorities
        )

    def _next_model(self, group: Group, oldest: Waiter, now: float) -> str:
        if now >= self._patient_until(oldest):
            return oldest.model
        highest = self._highest(group)
        equals = [
            first for first in self._firsts(group) if group.queues[first.model].priorities[highest]
        ]
        return min(equals, key=_arrival).model

    def _oldest_other(self, group: Group) -> Waiter | None:
        """The oldest that could cause a switch now."""
        if not group.queues:
            return None
        return min(self._firsts(group), key=_arrival, default=None)

    def _firsts(self, group: Group) -> list[Waiter]:
        """Of each model that could be switched to now: the oldest that may cause it."""
        oldest = [q.oldest() for model, q in group.queues.items() if self._wanted(group, model)]
        return [waiter for waiter in oldest if waiter is not None]

    def waits_for_answers(self, model: str) -> bool:
        """Whether a switch to ``model`` is next as soon as those who hold the loaded one let go."""
        group = self.group_of(model)
        return not group.switching and group.loaded is not None and self._wanted(group, model)

    def _wanted(self, group: Group, model: str) -> bool:
        return (
            model != group.loaded
            and group.pinned in (None, model)
            and not self._elsewhere(self._group_of[model], model)
        )

    def _refusal(self, group: Group, model: str, now: float) -> Refusal | None:
        """Why a request for ``model`` is not even queued; None when it may wait."""
        if self._stopping:
            return Refusal(model, "the router is stopping", kind="stopping")
        failure = self.failures.get(model)
        if failure is not None and self.is_refused(model):
            message = (
                f"model '{model}' has failed {failure.count} times in a row and is refused "
                f"until an operator clears it: {failure.message}"
            )
            return Refusal(model, message, failure.log_lines)
        if self._waiting >= self._limits.max_queue:
            full = f"{self._waiting} requests wait already, and no more can"
            return Refusal(model, full, kind="overloaded")
        own = group.waiting(model)
        if own >= self._limits.max_queue_per_model:
            full = f"{own} requests wait for this model already, and no more can"
            return Refusal(model, full, kind="overloaded")
        owner = self._stuck_on(model)
        if owner is not None and now < owner.retry_at and not owner.switching:
            message = f"it cannot be loaded yet: {owner.stuck}"
            left = owner.retry_at - now
            return Refusal(model, message, kind="unavailable", retry_after=left)
        return self._pinned(group, model, now)

    def _stuck_on(self, model: str) -> Group | None:
        """The group whose stale model could not be stopped and has the unit of ``model``."""
        unit = self._units.get(model, model)
        stuck = (group for group in self.groups.values() if group.stuck is not None)
        return next((group for group in stuck if group.loaded_unit == unit), None)

    def _refuse_blocked(self, owner: Group, message: str) -> list[Action]:
        """Who waits in other groups for a unit that ``owner`` could not free is told."""
        blocked = [
            model
            for group in self.groups.values()
            if group is not owner
            for model in group.queues
            if self._units.get(model, model) == owner.loaded_unit
        ]
        return [
            action
            for model in blocked
            for action in self._refuse_queue(model, message, "unavailable", RETRY_STALE)
        ]

    def _refuse_passive(self, model: str, message: str, kind: RefusalKind) -> list[Action]:
        group = self.group_of(model)
        queue = group.queues.get(model)
        if queue is None:
            return []
        tickets = list(queue.passive)
        for ticket in tickets:
            queue.remove(ticket)
            del self._places[ticket]
        self._waiting -= len(tickets)
        if not queue:
            del group.queues[model]
        return [Refuse(ticket, Refusal(model, message, kind=kind)) for ticket in tickets]

    def _pinned(self, group: Group, model: str, now: float) -> Refusal | None:
        left = group.pinned_until - now
        if group.pinned in (None, model) or left <= self._limits.max_wait:
            return None
        message = f"an operator holds '{group.pinned}' for {left:.0f} s more"
        return Refusal(model, message, kind="pinned", retry_after=left)

    def _refuse_queue(
        self,
        model: str,
        message: str,
        kind: RefusalKind,
        retry_after: float | None = None,
        log_lines: Iterable[str] = (),
    ) -> list[Action]:
        queue = self.group_of(model).queues.pop(model, None)
        if queue is None:
            return []
        refusal = Refusal(model, message, tuple(log_lines), kind, retry_after)
        self._waiting -= len(queue)
        for waiter in queue.all():
            del self._places[waiter.ticket]
        return [Refuse(waiter.ticket, refusal) for waiter in queue.all()]

    def _begin(self, name: str, target: str | None, reason: Reason) -> BeginSwitch:
        group = self.groups[name]
        group.switching, group.stopped = True, False
        group.target, group.reason = target, reason
        group.target_unit = None if target is None else self._units.get(target, target)
        group.changes += 1
        group.stale.discard(target or "")
        return BeginSwitch(name, target, group.loaded, reason)

    @staticmethod
    def _end_switch(group: Group) -> str | None:
        """The target of the switch that ran."""
        if not group.switching:
            raise RuntimeError("no switch runs in this group")
        model = group.target
        group.switching, group.stopped, group.target = False, False, None
        group.target_unit = None
        group.changes += 1
        return model

    def _now_loaded(self, group: Group, model: str | None, now: float) -> None:
        group.loaded, group.loaded_at, group.idle_since, group.keep = model, now, now, None
        group.loaded_unit = None if model is None else self._units.get(model, model)
        group.stuck, group.retry_at, group.unhealthy = None, 0.0, False
        group.changes += 1
        group.stale &= {model or ""}

    def _grant_loaded(self, group: Group) -> list[Action]:
        queue = group.queues.pop(group.loaded, None) if group.loaded is not None else None
        if queue is None or group.loaded is None:
            return []
        self._waiting -= len(queue)
        granted: list[Action] = [Grant(waiter.ticket) for waiter in queue.all()]
        if group.loaded in group.leases:
            group.leases[group.loaded].join(queue)
        else:
            group.leases[group.loaded] = queue
        return granted

    def _ttl(self, group: Group) -> float | None:
        if group.loaded is None:
            return None
        return group.keep if group.keep is not None else self._limits.ttl.get(group.loaded)


def _arrival(waiter: Waiter) -> int:
    """Tickets are in the order of arrival, and the clock does not go back."""
    return waiter.ticket
