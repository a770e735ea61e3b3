"""A day of a scheduler in simulated time: arrivals, bounded leases, drains, loads, failures."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llm_router.scheduler.core import Action, BeginSwitch, Core, Drained, Grant, Limits, Refuse

SLACK = 1e-6
"""Seconds, for sums of floats."""


@dataclass
class Client:
    """A request: ``patience`` is how long it waits before it leaves."""

    model: str
    group: str
    since: float
    passive: bool
    jumped: float
    """How far the clock had jumped when it came."""


@dataclass
class Device:
    """One group as it is outside of the scheduler."""

    model: str | None = None
    switch: BeginSwitch | None = None
    began: float = 0.0
    number: int = 0
    loading: bool = False


class Simulation:
    """One run, all of it from ``seed``. ``orderly``: nobody interferes but clients and faults.

    The waiting bound, which orderly runs are held to. Let M be max_wait, S the longest switch (its
    drain, cut at drain_timeout, and its load), U the unload of an idle model (0 where none has a
    ttl), k the models of the group. A request for model m that comes at t is answered by

        t + max(M, U + S) + (k - 1) * S    (two models: max(max_wait, drain + load) + drain + load)

    Past t + M the fence is up: whenever no switch runs, one begins, to the model of the oldest
    request. Before m can go only models that have an older request than this one, each once: when
    its switch ends, all who wait for it are served or told, and who comes later is younger.
    A switch that runs at t + M began either
    - before t, or in place of an unload that did: it has ended by t + U + S, and has left no older
      request for what it was to load; so k - 1 switches are left, m's own among them; or
    - later: it took the place of a model whose requests were all served or told at that moment,
      so that two models besides m have no older request, and it is itself one of the k - 1.
    A jump of the clock in between adds to it.
    """

    def __init__(self, seed: int, *, orderly: bool) -> None:
        self.rng = rng = random.Random(seed)
        self.orderly = orderly
        self.models = {f"g{n}": "g" for n in range(rng.choice((2, 2, 3, 4)))}
        self.models |= {f"h{n}": "h" for n in range(2)}
        self.names = sorted(self.models)
        self.drain = rng.choice((0.0, 1.0, 10.0))
        self.load = rng.choice((0.1, 5.0, 40.0))
        self.unload = rng.choice((0.0, self.load))
        self.max_wait = rng.choice((0.0, 2.0, 20.0, 60.0))
        self.failing = rng.choice((0.0, 0.0, 0.2, 0.6))
        self.core = Core(self.models, self._limits())
        self.now = 0.0
        self.jumped = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.waiting: dict[int, Client] = {}
        self.held: dict[int, Client] = {}
        self.devices = {name: Device() for name in ("g", "h")}
        self.served = self.refused = self.left = self.switches = 0

    def run(self, arrivals: int = 40) -> None:
        """Everything that was asked has ended afterwards."""
        rng = self.rng
        moment, pace = 0.0, rng.choice((0.05, 1.0, 8.0))
        for _ in range(arrivals):
            moment += rng.expovariate(1 / pace)
            self._at(moment, self._arrive)
        for _ in range(rng.randrange(4)):
            self._at(rng.uniform(0, moment), self._lose)
        if not self.orderly:
            for _ in range(rng.randrange(4)):
                self._at(rng.uniform(0, moment), self._start_by_hand)
        if rng.random() < 0.3:
            self._at(rng.uniform(0, moment), self._jump)
        if not self.orderly:
            for _ in range(rng.randrange(8)):
                self._at(rng.uniform(0, moment), rng.choice(self._operations()))
        while self.events:
            # a late loop sees several events at once; time never runs backwards
            due, _, happen = heapq.heappop(self.events)
            self.now = max(self.now, due)
            happen()
            wakeup = self.core.next_wakeup()
            if wakeup is not None and not self._passed(wakeup):
                self._at(wakeup, self._tick)
        assert not self.waiting, "requests were lost"
        assert not self.held
        assert self.served + self.refused + self.left == arrivals

    def _limits(self) -> Limits:
        rng = self.rng
        return Limits(
            max_wait=self.max_wait,
            min_residency=min(self.max_wait, rng.choice((0.0, 0.0, 5.0))),
            max_failures=rng.choice((1, 3, 1000)),
            rollback=rng.random() < 0.5,
            max_queue=rng.choice((5, 20_000)),
            ttl={name: rng.choice((0.0, 3.0)) for name in self.names if rng.random() < 0.3},
        )

    def _at(self, moment: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self.events, (moment, next(self.order), happen))

    def _passed(self, wakeup: float) -> bool:
        """Whether a tick for it is under way already."""
        return any(event[0] == wakeup and event[2] == self._tick for event in self.events)

    def _tick(self) -> None:
        self._apply(self.core.tick(self.now))

    def _jump(self) -> None:
        by = self.rng.uniform(1, 300)
        self.now += by
        self.jumped += by

    def _arrive(self) -> None:
        rng = self.rng
        model = rng.choice(self.names)
        if model not in self.core.models:
            self.refused += 1
            return
        ticket = next(self.order)
        passive = rng.random() < 0.1
        client = Client(model, self.core.models[model], self.now, passive, self.jumped)
        self.waiting[ticket] = client
        # one that may cause no switch has to give up some day, the others only now and then
        if passive or rng.random() < 0.15:
            self._at(self.now + rng.uniform(0, 30), lambda: self._give_up(ticket))
        priority = rng.choice((0, 0, 0, 1))
        self._apply(self.core.request(ticket, model, self.now, passive=passive, priority=priority))

    def _give_up(self, ticket: int) -> None:
        if ticket in self.waiting:
            self._in_time(self.waiting.pop(ticket))
            self.left += 1
            self._apply(self.core.leave(ticket, self.now))

    def _finish(self, ticket: int) -> None:
        if self.held.pop(ticket, None) is not None:
            self.served += 1
            keep = self.rng.choice((None, None, None, 0.0, 2.0))
            self._apply(self.core.leave(ticket, self.now, keep_alive=keep))

    def _apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Grant):
                client = self.waiting.pop(action.ticket)
                device = self.devices[client.group]
                assert device.switch is None, "granted in the middle of a switch"
                assert device.model == client.model, "granted for a model that is not there"
                self._in_time(client)
                self.held[action.ticket] = client
                self._end_later(action.ticket)
            elif isinstance(action, Refuse):
                self._in_time(self.waiting.pop(action.ticket))
                self.refused += 1
            elif isinstance(action, BeginSwitch):
                self._begin(action)
            else:
                self._drained(action)

    def _in_time(self, client: Client) -> None:
        if not self.orderly or client.passive:
            return
        others = sum(1 for group in self.models.values() if group == client.group) - 1
        switch = self.drain + self.load
        bound = (
            max(self.max_wait, self.unload + switch) + others * switch + self.jumped - client.jumped
        )
        waited = self.now - client.since
        assert waited <= bound + SLACK, f"waited {waited} s for {client.model}, bound {bound} s"

    def _end_later(self, ticket: int) -> None:
        hold = self.rng.choice((0.0, 0.5, self.drain / 2, self.drain * 3))
        self._at(self.now + hold, lambda: self._finish(ticket))

    def _holders(self, group: str) -> list[int]:
        return [ticket for ticket, client in self.held.items() if client.group == group]

    def _begin(self, action: BeginSwitch) -> None:
        device = self.devices[action.group]
        assert device.switch is None, "two switches in one group"
        self.switches += 1
        device.switch, device.began, device.loading = action, self.now, False
        device.number += 1
        number = device.number
        if self.failing and self.rng.random() < self.failing / 4:
            # what cannot even be planned drains nobody
            device.loading = True
            self._at(self.now, lambda: self._fail(action.group, action.previous))
        elif self._holders(action.group):
            self._at(self.now + self.drain, lambda: self._cut(action.group, number))
        else:
            self._load(action.group)

    def _drained(self, action: Drained) -> None:
        assert not self._holders(action.group), "told to be drained too soon"
        if not self.devices[action.group].loading:
            self._load(action.group)

    def _cut(self, group: str, number: int) -> None:
        device = self.devices[group]
        if device.number != number or device.switch is None or device.loading:
            return
        holders = self._holders(group)
        assert holders, "nobody was told that the last lease has ended"
        for ticket in holders:
            self._finish(ticket)

    def _load(self, group: str) -> None:
        device = self.devices[group]
        switch = device.switch
        assert switch is not None
        early = self.now - device.began < self.drain - SLACK
        assert not (early and self._holders(group)), "a lease was cut before its time"
        assert not self._holders(group), "two models on one group"
        device.loading = True
        took = self.rng.uniform(0, self.load if switch.target else self.unload)
        if self.rng.random() < self.failing:
            left = switch.previous if self.rng.random() < 0.2 else None
            if left is None:
                self._stop(group)
            self._at(self.now + took, lambda: self._fail(group, left))
            return
        self._stop(group)
        self._at(self.now + took, lambda: self._done(group))

    def _stop(self, group: str) -> None:
        self.core.stopped(group)
        self.devices[group].model = None

    def _done(self, group: str) -> None:
        device = self.devices[group]
        assert device.switch is not None
        device.model, device.switch = device.switch.target, None
        self._apply(self.core.switched(group, self.now))

    def _fail(self, group: str, left: str | None) -> None:
        device = self.devices[group]
        device.switch = None
        blame = self.rng.random() < 0.7
        self._apply(self.core.switch_failed(group, "x", [], self.now, blame=blame, loaded=left))

    def _lose(self) -> None:
        group = self.rng.choice(("g", "h"))
        device = self.devices[group]
        model = device.model
        if model is None or device.switch is not None or model not in self.core.models:
            return
        device.model = None
        broken = self._holders(group)
        for ticket in broken:
            del self.held[ticket]
        self._apply(self.core.lost(model, self.now))
        for ticket in broken:
            self.served += 1
            self._apply(self.core.leave(ticket, self.now))

    def _start_by_hand(self) -> None:
        """An engine that nobody asked for is found ready, or found loading."""
        group = self.rng.choice(("g", "h"))
        device, state = self.devices[group], self.core.groups[group]
        names = [name for name, place in self.core.models.items() if place == group]
        if device.switch is not None or state.loaded is not None or not names:
            return
        model = self.rng.choice(names)
        if self.rng.random() < 0.5:
            self._apply(self.core.adopt(group, model))
        else:
            device.model = model
            self._apply(self.core.loaded(model, self.now))

    def _operations(self) -> list[Callable[[], None]]:
        return [self._pin, self._unpin, self._unload, self._configure, self._clear]

    def _pin(self) -> None:
        model = self.rng.choice(self.names)
        if model in self.core.models:
            until = self.now + self.rng.choice((1.0, 30.0, 500.0))
            self._apply(self.core.pin(model, until, self.now))

    def _unpin(self) -> None:
        model = self.rng.choice(self.names)
        if model in self.core.models:
            self._apply(self.core.unpin(model, self.now))

    def _unload(self) -> None:
        self._apply(self.core.unload(self.rng.choice(("g", "h"))))

    def _clear(self) -> None:
        self.core.clear(self.rng.choice(self.names))

    def _configure(self) -> None:
        kept = {name: group for name, group in self.models.items() if self.rng.random() < 0.8}
        changed = [name for name in kept if self.rng.random() < 0.2]
        self._apply(self.core.configure(kept, self._limits(), self.now, changed=changed))
