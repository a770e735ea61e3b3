"""Admission and eviction, without I/O: every change of state is one synchronous method.

Each public method takes the time, changes the state and returns the actions that follow from it;
`service.py` carries them out. Nothing here awaits, logs or has a clock.

The rules for one device group, in the order in which they are asked:

0. A queue that is full takes no more; a model that failed too often is refused at once.
1. While a switch runs, nothing is granted and nothing else is begun.
2. Who waits for the loaded model gets a lease, unless a fence is up.
3. The fence goes up when the oldest request for another model has waited ``max_wait``.
4. With another model wanted by a request that may cause a switch: if nothing is loaded, or nobody
   holds a lease and the loaded model has been there for ``min_residency``, or the fence is up, a
   switch to the model of the oldest such request begins. The switch itself drains the leases that
   are left.
5. With nobody waiting, nothing loaded and a model to bring back after a failed switch: that one.
6. A model that nobody has used for its ``ttl`` is unloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Reason = Literal["request", "adopt", "rollback", "idle", "operator"]
RefusalKind = Literal["failed", "overloaded", "stopping"]


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
    """Why a request gets no lease."""

    model: str
    message: str
    log_lines: tuple[str, ...] = ()
    kind: RefusalKind = "failed"


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


@dataclass
class Waiter:
    """A request that waits. A passive one is served when others have its model loaded."""

    ticket: int
    model: str
    since: float
    passive: bool = False


@dataclass
class Group:
    """What is known of one device group."""

    loaded: str | None = None
    loaded_at: float = 0.0
    idle_since: float = 0.0
    switching: bool = False
    target: str | None = None
    """What a running switch loads; None while it unloads."""
    reason: Reason = "request"
    bring_back: str | None = None
    leases: dict[int, str] = field(default_factory=dict)
    waiters: dict[int, Waiter] = field(default_factory=dict)


class Core:
    """The state of all device groups. ``groups`` maps each model's name to its group."""

    def __init__(self, groups: dict[str, str], limits: Limits) -> None:
        self._group_of = dict(groups)
        self._limits = limits
        self.groups: dict[str, Group] = {name: Group() for name in groups.values()}
        self.failures: dict[str, Failure] = {}

    def group_of(self, model: str) -> Group:
        """The group that ``model`` competes in. Raises KeyError for an unknown model."""
        return self.groups[self._group_of[model]]

    def request(
        self, ticket: int, model: str, now: float, *, passive: bool = False
    ) -> list[Action]:
        """Someone wants a lease on ``model``; ``ticket`` is new.

        A ``passive`` request never causes a switch: it waits for one that others cause.
        """
        failure = self.failures.get(model)
        group = self.group_of(model)
        refused = failure is not None and failure.count >= self._limits.max_failures
        if failure is not None and refused and group.loaded != model:
            message = (
                f"model '{model}' has failed {failure.count} times in a row and is refused "
                f"until an operator clears it: {failure.message}"
            )
            return [Refuse(ticket, Refusal(model, message, failure.log_lines))]
        full = self._full(model)
        if full is not None:
            return [Refuse(ticket, Refusal(model, full, kind="overloaded"))]
        group.waiters[ticket] = Waiter(ticket, model, now, passive)
        return self._decide(self._group_of[model], now)

    def leave(self, ticket: int, now: float) -> list[Action]:
        """The holder of ``ticket`` is gone or done. Safe to repeat."""
        for name, group in self.groups.items():
            if group.waiters.pop(ticket, None) is not None:
                return self._decide(name, now)
            if ticket in group.leases:
                del group.leases[ticket]
                group.idle_since = now
                if group.switching:
                    return [] if group.leases else [Drained(name)]
                return self._decide(name, now)
        return []

    def adopt(self, group_name: str, target: str) -> list[Action]:
        """Begin a switch to a model whose engine runs already but has yet to answer."""
        group = self.groups[group_name]
        group.switching, group.target, group.reason = True, target, "adopt"
        return [BeginSwitch(group_name, target, None, "adopt")]

    def unload(self, group_name: str) -> list[Action]:
        """An operator wants the group's device free. Nothing happens while a switch runs."""
        group = self.groups[group_name]
        if group.switching or group.loaded is None:
            return []
        return [self._begin(group_name, None, "operator")]

    def switched(self, group_name: str, now: float) -> list[Action]:
        """The running switch's model is loaded: all who wait for it are served together."""
        group = self.groups[group_name]
        if not group.switching:
            raise RuntimeError(f"no switch runs in group {group_name}")
        model = group.target
        group.switching, group.target, group.bring_back = False, None, None
        group.loaded, group.loaded_at, group.idle_since = model, now, now
        if model is not None:
            self.failures.pop(model, None)
        granted = self._grant_loaded(group)
        return granted + self._decide(group_name, now)

    def switch_failed(
        self, group_name: str, message: str, log_lines: Iterable[str], now: float
    ) -> list[Action]:
        """The running switch failed and nothing is loaded: its waiters are told, others go on."""
        group = self.groups[group_name]
        if not group.switching:
            raise RuntimeError(f"no switch runs in group {group_name}")
        model, reason, previous = group.target, group.reason, group.loaded
        group.switching, group.target, group.loaded = False, None, None
        if model is None:
            # what could not be unloaded is found running, and stopped, by the next switch
            return self._decide(group_name, now)
        before = self.failures.get(model)
        failure = Failure(message, tuple(log_lines), 1 + (before.count if before else 0))
        self.failures[model] = failure
        group.bring_back = previous if self._limits.rollback and reason == "request" else None
        if group.bring_back == model:
            group.bring_back = None
        actions: list[Action] = []
        for waiter in [w for w in group.waiters.values() if w.model == model]:
            del group.waiters[waiter.ticket]
            refusal = Refusal(model, message, failure.log_lines)
            actions.append(Refuse(waiter.ticket, refusal))
        return actions + self._decide(group_name, now)

    def loaded(self, model: str, now: float) -> None:
        """``model`` was found loaded when the router began."""
        group = self.group_of(model)
        group.loaded, group.loaded_at, group.idle_since = model, now, now

    def lost(self, model: str, now: float) -> list[Action]:
        """The engine of a loaded model is gone. Its leases end by themselves: the streams broke."""
        group = self.group_of(model)
        if group.loaded != model or group.switching:
            return []
        group.loaded = None
        return self._decide(self._group_of[model], now)

    def clear(self, model: str) -> None:
        """Forget the model's failures."""
        self.failures.pop(model, None)

    def tick(self, now: float) -> list[Action]:
        """Time has passed: `next_wakeup` was due."""
        return [action for name in self.groups for action in self._decide(name, now)]

    def next_wakeup(self) -> float | None:
        """When `tick` is due next if nothing else happens; None when time alone changes nothing."""
        due: list[float] = []
        for group in self.groups.values():
            if group.switching:
                continue
            oldest = self._oldest_other(group)
            if oldest is None:
                ttl = self._limits.ttl.get(group.loaded or "")
                if ttl is not None and not group.leases:
                    due.append(group.idle_since + ttl)
                continue
            fence = oldest.since + self._limits.max_wait
            if group.leases:
                due.append(fence)
            else:
                due.append(min(fence, group.loaded_at + self._limits.min_residency))
        return min(due, default=None)

    def _decide(self, name: str, now: float) -> list[Action]:
        group = self.groups[name]
        if group.switching:
            return []
        oldest = self._oldest_other(group)
        fenced = oldest is not None and now - oldest.since >= self._limits.max_wait
        actions: list[Action] = [] if fenced else self._grant_loaded(group)
        if oldest is not None:
            resident = now - group.loaded_at >= self._limits.min_residency
            if group.loaded is None or fenced or (resident and not group.leases):
                actions.append(self._begin(name, oldest.model, "request"))
        elif group.loaded is None and group.bring_back is not None:
            actions.append(self._begin(name, group.bring_back, "rollback"))
        elif group.loaded is not None and not group.leases:
            ttl = self._limits.ttl.get(group.loaded)
            if ttl is not None and now - group.idle_since >= ttl:
                actions.append(self._begin(name, None, "idle"))
        return actions

    def _full(self, model: str) -> str | None:
        """Why no more can wait, in one sentence; None while there is room."""
        waiting = sum(len(group.waiters) for group in self.groups.values())
        if waiting >= self._limits.max_queue:
            return f"{waiting} requests wait already, and no more can"
        if len(self.group_of(model).waiters) < self._limits.max_queue_per_model:
            return None
        own = sum(1 for w in self.group_of(model).waiters.values() if w.model == model)
        if own < self._limits.max_queue_per_model:
            return None
        return f"{own} requests wait for this model already, and no more can"

    def _begin(self, name: str, target: str | None, reason: Reason) -> BeginSwitch:
        group = self.groups[name]
        group.switching, group.target, group.reason = True, target, reason
        return BeginSwitch(name, target, group.loaded, reason)

    def _grant_loaded(self, group: Group) -> list[Action]:
        actions: list[Action] = []
        for waiter in [w for w in group.waiters.values() if w.model == group.loaded]:
            del group.waiters[waiter.ticket]
            group.leases[waiter.ticket] = waiter.model
            actions.append(Grant(waiter.ticket))
        return actions

    def _oldest_other(self, group: Group) -> Waiter | None:
        # tickets are in the order of arrival, and the clock does not go back
        waiters = group.waiters.values()
        return next((w for w in waiters if w.model != group.loaded and not w.passive), None)
