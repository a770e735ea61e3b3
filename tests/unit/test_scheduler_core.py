"""The scheduler's rules, each by name; then all of them under random use."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from llm_router.scheduler.core import (
    Action,
    BeginSwitch,
    Core,
    Drained,
    Grant,
    Limits,
    Refuse,
)


def core(**limits: object) -> Core:
    groups = {"a": "g", "b": "g", "c": "g", "other": "h"}
    return Core(groups, Limits(**{"max_wait": 60.0, "min_residency": 0.0, **limits}))  # type: ignore[arg-type]


def loaded(model: str = "a", **limits: object) -> Core:
    made = core(**limits)
    made.loaded(model, 0.0)
    return made


def test_the_first_request_begins_a_switch() -> None:
    assert core().request(1, "a", 0.0) == [BeginSwitch("g", "a", None, "request")]


def test_requests_for_the_model_that_loads_join_its_switch() -> None:
    it = core()
    it.request(1, "a", 0.0)
    assert it.request(2, "a", 1.0) == []
    assert it.switched("g", 2.0) == [Grant(1), Grant(2)]


def test_a_request_for_the_loaded_model_is_granted_at_once() -> None:
    assert loaded().request(1, "a", 0.0) == [Grant(1)]


def test_a_held_model_is_not_evicted() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    assert it.request(2, "b", 1.0) == []
    assert it.leave(1, 5.0) == [BeginSwitch("g", "b", "a", "request")]


def test_the_oldest_waiter_is_served_first_and_brings_its_group_along() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    for ticket, model in ((2, "c"), (3, "b"), (4, "c")):
        it.request(ticket, model, 1.0)
    assert it.leave(1, 2.0) == [BeginSwitch("g", "c", "a", "request")]
    assert it.switched("g", 3.0) == [Grant(2), Grant(4)]


def test_a_sick_engine_is_drained_and_serves_nobody_else() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    assert it.restart("a", 1.0) == [BeginSwitch("g", None, "a", "restart")]
    assert it.request(2, "a", 2.0) == []
    assert it.restart("a", 2.0) == []
    assert it.leave(1, 3.0) == [Drained("g")]
    assert it.switched("g", 4.0) == [BeginSwitch("g", "a", None, "request")]
    assert it.switched("g", 5.0) == [Grant(2)]
    assert it.request(3, "a", 6.0) == [Grant(3)]


def test_only_what_is_loaded_is_restarted() -> None:
    assert core().restart("a", 0.0) == []
    assert loaded("b").restart("a", 0.0) == []
    it = loaded()
    it.request(1, "b", 0.0)  # a switch runs already
    assert it.restart("a", 0.0) == []


def test_the_fence_stops_new_leases_once_another_has_waited_long_enough() -> None:
    it = loaded(max_wait=10)
    it.request(1, "a", 0.0)
    it.request(2, "b", 0.0)
    assert it.request(3, "a", 9.0) == [Grant(3)]
    assert it.next_wakeup() == 10.0
    assert it.tick(10.0) == [BeginSwitch("g", "b", "a", "request")]
    assert it.request(4, "a", 11.0) == []
    assert it.leave(1, 12.0) == []
    assert it.leave(3, 13.0) == [Drained("g")]
    assert it.switched("g", 14.0) == [Grant(2)]


def test_a_model_stays_for_its_residency() -> None:
    it = loaded(min_residency=5)
    assert it.request(1, "b", 1.0) == []
    assert it.next_wakeup() == 5.0
    assert it.tick(5.0) == [BeginSwitch("g", "b", "a", "request")]


def test_a_client_that_leaves_takes_its_request_along() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    it.request(2, "b", 0.0)
    assert it.leave(2, 1.0) == []
    assert it.leave(1, 2.0) == []
    assert it.next_wakeup() is None


def test_a_failure_is_told_to_its_waiters_and_the_former_model_comes_back() -> None:
    it = loaded()
    it.request(1, "b", 0.0)
    refuse, begin = it.switch_failed("g", "no memory", ["line"], 1.0)
    assert isinstance(refuse, Refuse)
    assert refuse.ticket == 1
    assert refuse.refusal.log_lines == ("line",)
    assert begin == BeginSwitch("g", "a", None, "rollback")
    assert it.switched("g", 2.0) == []
    assert it.group_of("a").loaded == "a"


def test_who_waits_for_a_third_model_goes_before_the_former_one() -> None:
    it = loaded()
    it.request(1, "b", 0.0)
    it.request(2, "c", 0.0)
    assert it.switch_failed("g", "x", [], 1.0)[1:] == [BeginSwitch("g", "c", None, "request")]
    it.switched("g", 2.0)
    assert it.leave(2, 3.0) == []


def test_a_rollback_that_fails_is_not_tried_for_ever() -> None:
    it = loaded()
    it.request(1, "b", 0.0)
    it.switch_failed("g", "x", [], 1.0)
    assert it.switch_failed("g", "y", [], 2.0) == []
    assert it.group_of("a").loaded is None


def test_without_rollback_nothing_is_loaded_after_a_failure() -> None:
    it = loaded(rollback=False)
    it.request(1, "b", 0.0)
    assert len(it.switch_failed("g", "x", [], 1.0)) == 1


def test_the_former_model_does_not_come_back_while_another_one_is_pinned() -> None:
    it = loaded()
    it.request(1, "b", 0.0)
    it.pin("b", 8.0, 1.0)
    assert len(it.switch_failed("g", "x", [], 2.0)) == 1
    assert it.next_wakeup() == 8.0
    assert it.tick(8.0) == [BeginSwitch("g", "a", None, "rollback")]


def test_too_many_failures_in_a_row_refuse_at_once_until_cleared() -> None:
    it = core(max_failures=2)
    for ticket in (1, 2):
        assert it.request(ticket, "a", 0.0) == [BeginSwitch("g", "a", None, "request")]
        it.switch_failed("g", "no memory", [], 1.0)
    (refused,) = it.request(3, "a", 2.0)
    assert isinstance(refused, Refuse)
    assert "2 times in a row" in refused.refusal.message
    it.clear("a")
    assert it.request(4, "a", 3.0) == [BeginSwitch("g", "a", None, "request")]


def test_a_success_ends_the_row_of_failures() -> None:
    it = core(max_failures=2)
    it.request(1, "a", 0.0)
    it.switch_failed("g", "x", [], 1.0)
    it.request(2, "a", 2.0)
    it.switched("g", 3.0)
    assert it.failures == {}


def test_a_lost_engine_is_loaded_again_for_the_next_request() -> None:
    it = loaded()
    assert it.lost("a", 1.0) == []
    assert it.request(1, "a", 2.0) == [BeginSwitch("g", "a", None, "request")]


def test_an_adopted_model_that_fails_is_not_brought_back() -> None:
    it = core()
    assert it.adopt("g", "a") == [BeginSwitch("g", "a", None, "adopt")]
    assert it.switch_failed("g", "x", [], 1.0) == []


def test_a_passive_request_causes_no_switch_but_shares_one() -> None:
    it = loaded()
    assert it.request(1, "b", 0.0, passive=True) == []
    assert it.tick(1000.0) == []
    assert it.next_wakeup() is None
    assert it.request(2, "b", 1001.0) == [BeginSwitch("g", "b", "a", "request")]
    assert it.switched("g", 1002.0) == [Grant(2), Grant(1)]


def test_a_full_queue_takes_no_more() -> None:
    it = core(max_queue=3, max_queue_per_model=2)
    for ticket, model in ((1, "a"), (2, "a")):
        it.request(ticket, model, 0.0)
    (refused,) = it.request(3, "a", 0.0)
    assert isinstance(refused, Refuse)
    assert refused.refusal.kind == "overloaded"
    assert "2 requests wait for this model" in refused.refusal.message
    assert it.request(4, "b", 0.0) == []
    (refused,) = it.request(5, "c", 0.0)
    assert isinstance(refused, Refuse)
    assert "3 requests wait already" in refused.refusal.message
    assert it.switched("g", 1.0) == [Grant(1), Grant(2)]
    assert it.request(6, "a", 1.0) == [Grant(6)]


def test_an_idle_model_is_unloaded_after_its_ttl() -> None:
    it = loaded(ttl={"a": 30.0})
    it.request(1, "a", 10.0)
    assert it.next_wakeup() is None
    it.leave(1, 20.0)
    assert it.next_wakeup() == 50.0
    assert it.tick(49.0) == []
    assert it.tick(50.0) == [BeginSwitch("g", None, "a", "idle")]
    assert it.request(2, "a", 51.0) == []
    assert it.switched("g", 52.0) == [BeginSwitch("g", "a", None, "request")]


def test_an_unload_lets_running_answers_end() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    assert it.unload("g") == [BeginSwitch("g", None, "a", "operator")]
    assert it.unload("g") == []
    assert it.leave(1, 1.0) == [Drained("g")]
    assert it.switched("g", 2.0) == []
    assert it.group_of("a").loaded is None
    assert it.unload("g") == []


def test_an_unload_that_fails_is_nobodys_failure() -> None:
    it = loaded()
    it.unload("g")
    assert it.switch_failed("g", "x", [], 1.0) == []
    assert it.failures == {}


def test_an_unload_that_fails_is_tried_again_but_not_at_once() -> None:
    it = loaded(ttl={"a": 5.0})
    assert it.tick(5.0) == [BeginSwitch("g", None, "a", "idle")]
    assert it.switch_failed("g", "x", [], 6.0, blame=False, loaded="a") == []
    assert it.group_of("a").current == "a"
    assert it.next_wakeup() == 66.0
    assert it.tick(66.0) == [BeginSwitch("g", None, "a", "idle")]


def test_a_failure_of_the_host_counts_against_no_model_and_leaves_what_was_loaded() -> None:
    it = loaded()
    it.request(1, "b", 0.0)
    (refuse,) = it.switch_failed("g", "no helper", [], 1.0, blame=False, loaded="a")
    assert isinstance(refuse, Refuse)
    assert refuse.refusal.kind == "unavailable"
    assert it.failures == {}
    assert it.request(2, "a", 2.0) == [Grant(2)]


def test_who_waits_for_a_model_that_could_not_be_adopted_waits_on() -> None:
    it = core()
    it.adopt("g", "a")
    it.request(1, "a", 0.0)
    begin = it.switch_failed("g", "it serves b", [], 1.0, blame=False, loaded="b")
    assert begin == [BeginSwitch("g", "a", "b", "request")]


def test_the_former_model_comes_back_after_several_failures_too() -> None:
    it = loaded()
    it.request(1, "b", 0.0)
    it.request(2, "c", 0.0)
    assert it.switch_failed("g", "x", [], 1.0)[1:] == [BeginSwitch("g", "c", None, "request")]
    assert it.switch_failed("g", "y", [], 2.0)[1:] == [BeginSwitch("g", "a", None, "rollback")]


def test_leases_of_a_lost_model_hold_up_nobody() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    it.lost("a", 1.0)
    assert it.request(2, "b", 2.0) == [BeginSwitch("g", "b", None, "request")]
    it.switched("g", 3.0)
    it.leave(2, 4.0)
    assert it.request(3, "c", 5.0) == [BeginSwitch("g", "c", "b", "request")]
    assert it.leave(1, 6.0) == []


def test_the_higher_priority_is_next_and_does_not_wait_for_steady_traffic_of_a_lower_one() -> None:
    it = loaded(min_residency=5)
    it.request(1, "a", 0.0)
    it.request(2, "b", 0.0)
    it.request(3, "c", 0.0, priority=1)
    assert it.next_wakeup() == 5.0
    assert it.request(4, "a", 4.0) == [Grant(4)]
    assert it.tick(5.0) == [BeginSwitch("g", "c", "a", "request")]
    assert it.request(5, "a", 6.0) == []
    assert it.leave(1, 7.0) == []
    assert it.leave(4, 7.0) == [Drained("g")]


def test_priority_starves_nobody() -> None:
    it = loaded(max_wait=10)
    it.request(1, "a", 0.0, priority=1)
    it.request(2, "b", 0.0)
    it.request(3, "c", 9.0, priority=5)
    assert it.switched("g", 11.0)[0] == Grant(3)
    it.leave(1, 11.0)
    assert it.group_of("a").target == "b"


def test_a_request_can_say_how_long_the_model_stays() -> None:
    it = loaded(ttl={"a": 30.0})
    it.request(1, "a", 0.0)
    it.leave(1, 10.0, keep_alive=5.0)
    assert it.next_wakeup() == 15.0
    it.request(2, "a", 11.0)
    it.leave(2, 12.0)
    assert it.next_wakeup() == 42.0
    it.request(3, "a", 13.0)
    assert it.leave(3, 14.0, keep_alive=0.0) == [BeginSwitch("g", None, "a", "idle")]


def test_a_pinned_model_is_not_evicted_and_who_cannot_wait_is_told() -> None:
    it = loaded(max_wait=10, ttl={"a": 1.0})
    assert it.pin("a", 100.0, 0.0) == []
    (refused,) = it.request(1, "b", 1.0)
    assert isinstance(refused, Refuse)
    assert refused.refusal.kind == "pinned"
    assert refused.refusal.retry_after == 99.0
    assert it.tick(50.0) == []
    assert it.request(2, "b", 92.0) == []
    assert it.next_wakeup() == 100.0
    assert it.tick(100.0) == [BeginSwitch("g", "b", "a", "request")]


def test_the_end_of_a_pin_lets_others_in() -> None:
    it = loaded(max_wait=10)
    it.pin("a", 8.0, 0.0)
    assert it.request(1, "b", 1.0) == []
    assert it.unpin("a", 2.0) == [BeginSwitch("g", "b", "a", "request")]


def test_who_waits_for_a_model_that_is_no_more_is_told_and_what_is_loaded_goes() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    it.request(2, "b", 0.0)
    removed = {"c": "g", "other": "h"}
    actions = it.configure(removed, Limits(), 1.0)
    assert [type(action) for action in actions] == [Refuse, BeginSwitch]
    assert actions[1] == BeginSwitch("g", None, "a", "removed")
    assert it.leave(1, 2.0) == [Drained("g")]
    assert it.switched("g", 3.0) == []
    assert it.request(3, "c", 4.0) == [BeginSwitch("g", "c", None, "request")]
    with pytest.raises(KeyError):
        it.request(4, "a", 5.0)


def test_a_removed_model_that_could_not_be_unloaded_keeps_its_leases_and_is_tried_again() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    assert it.configure({"b": "g"}, Limits(), 1.0) == [BeginSwitch("g", None, "a", "removed")]
    assert it.switch_failed("g", "no bus", [], 2.0, blame=False, loaded="a") == []
    assert it.groups["g"].in_flight("a") == 1
    assert it.groups["g"].stuck == "no bus"
    assert it.request(2, "b", 3.0) == [BeginSwitch("g", "b", "a", "request")]
    it.switch_failed("g", "no bus", [], 4.0, blame=False, loaded="a")
    assert it.next_wakeup() == 9.0
    assert it.tick(8.0) == []
    assert it.tick(9.0) == [BeginSwitch("g", None, "a", "removed")]
    it.switched("g", 10.0)
    group = it.groups["g"]
    assert group.loaded is None
    assert group.stuck is None


def test_a_unit_that_another_group_uses_is_waited_for() -> None:
    it = Core({"a": "g", "b": "h"}, Limits(), {"a": "u", "b": "v"})
    it.loaded("a", 0.0)
    it.request(1, "a", 0.0)
    moved = {"a2": "h", "b": "h"}
    begun = it.configure(moved, Limits(), 1.0, units={"a2": "u", "b": "v"})
    assert begun == [BeginSwitch("g", None, "a", "removed")]
    assert it.request(2, "a2", 2.0) == []
    assert it.next_wakeup() is None
    assert it.request(3, "b", 3.0) == [BeginSwitch("h", "b", None, "request")]
    assert it.switched("h", 4.0) == [Grant(3)]
    it.leave(3, 5.0)
    assert it.switched("g", 6.0) == [BeginSwitch("h", "a2", "b", "request")]


def test_nothing_happens_in_a_group_before_it_is_known_what_runs_there() -> None:
    it = Core({"a": "g", "b": "g"}, Limits(), unknown=True)
    assert it.request(1, "b", 0.0) == []
    assert it.next_wakeup() is None
    it.loaded("a", 1.0)
    assert it.known("g", 1.0) == [BeginSwitch("g", "b", "a", "request")]


def test_a_tick_at_the_moment_that_was_asked_for_is_never_too_early() -> None:
    it = core(min_residency=2.0)
    it.loaded("a", 7.116629083722953)
    it.request(1, "b", 8.0)
    due = it.next_wakeup()
    assert due is not None
    assert due - 7.116629083722953 < 2.0  # so this is a sum that rounds the wrong way
    assert it.tick(due) == [BeginSwitch("g", "b", "a", "request")]


def test_what_did_not_change_is_not_touched_by_a_new_configuration() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    more = {"a": "g", "b": "g", "c": "g", "other": "h", "new": "g"}
    assert it.configure(more, Limits(max_wait=5), 1.0) == []
    assert it.request(2, "a", 1.0) == [Grant(2)]
    assert it.request(3, "new", 1.0) == []
    assert it.next_wakeup() == 6.0


def test_a_stopping_router_tells_who_waits_and_who_comes() -> None:
    it = loaded()
    it.request(1, "a", 0.0)
    it.request(2, "b", 0.0)
    (refused,) = it.stop()
    assert isinstance(refused, Refuse)
    assert refused.refusal.kind == "stopping"
    (refused,) = it.request(3, "a", 1.0)
    assert isinstance(refused, Refuse)
    assert it.leave(1, 2.0) == []
    assert it.next_wakeup() is None


def test_groups_do_not_wait_for_each_other() -> None:
    it = core()
    it.request(1, "a", 0.0)
    assert it.request(2, "other", 0.0) == [BeginSwitch("h", "other", None, "request")]


def test_an_unknown_model_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        core().request(1, "nobody", 0.0)


MODELS = {"a": "g", "b": "g", "c": "g", "d": "h", "e": "h"}
GROUPS = ("g", "h")
MAX_WAIT = 10.0
LIMITS = Limits(MAX_WAIT, 2.0, 3, max_queue=20, ttl={"a": 5.0})

names = st.sampled_from(sorted(MODELS))


class SchedulerMachine(RuleBasedStateMachine):
    """Everything that can happen to a scheduler, in any order, against the invariants.

    ``waiting`` and ``held`` have each ticket's group and model.
    """

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(MODELS, LIMITS)
        self.now = 0.0
        self.number = 0
        self.stopping = False
        self.waiting: dict[int, tuple[str, str]] = {}
        self.held: dict[int, tuple[str, str]] = {}
        self.switching: dict[str, str | None] = {}
        self.drained: set[str] = set()

    def holders(self, group: str) -> set[str]:
        return {model for name, model in self.held.values() if name == group}

    def apply(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Grant):
                group, model = self.waiting.pop(action.ticket)
                assert group not in self.switching, "granted in the middle of a switch"
                assert self.core.groups[group].loaded == model
                assert not self.stopping
                self.held[action.ticket] = group, model
            elif isinstance(action, Refuse):
                del self.waiting[action.ticket]
            elif isinstance(action, BeginSwitch):
                assert action.group not in self.switching, "two switches in one group"
                assert not self.stopping
                pinned = self.core.groups[action.group].pinned
                assert pinned in (None, action.target) or action.reason in ("removed", "restart")
                self.switching[action.group] = action.target
                if not self.holders(action.group):
                    self.drained.add(action.group)
            elif isinstance(action, Drained):
                assert not self.holders(action.group), "told to be drained too soon"
                self.drained.add(action.group)

    @rule(
        target=tickets,
        model=names,
        passive=st.booleans(),
        priority=st.sampled_from([0, 0, 0, 1, 7]),
    )
    def arrive(self, model: str, passive: bool, priority: int) -> int:
        self.number += 1
        if model not in self.core.models:
            with pytest.raises(KeyError):
                self.core.request(self.number, model, self.now)
            return self.number
        self.waiting[self.number] = self.core.models[model], model
        actions = self.core.request(
            self.number, model, self.now, passive=passive, priority=priority
        )
        begun = any(isinstance(action, BeginSwitch) for action in actions)
        assert not (passive and begun), "it had no right to switch"
        self.apply(actions)
        return self.number

    @rule(ticket=tickets, keep_alive=st.sampled_from([None, None, 0.0, 3.0, float("inf")]))
    def depart(self, ticket: int, keep_alive: float | None) -> None:
        self.waiting.pop(ticket, None)
        self.held.pop(ticket, None)
        self.apply(self.core.leave(ticket, self.now, keep_alive=keep_alive))

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.apply(self.core.tick(self.now))

    @rule(group=st.sampled_from(GROUPS))
    def end_switch(self, group: str) -> None:
        if group in self.drained:
            self.core.stopped(group)
            self.drained.discard(group)
            del self.switching[group]
            self.apply(self.core.switched(group, self.now))

    @rule(group=st.sampled_from(GROUPS), blame=st.booleans(), left=st.booleans())
    def fail_switch(self, group: str, blame: bool, left: bool) -> None:
        """``left``: what was loaded can answer still, and need not be drained for that."""
        if group in self.drained or (group in self.switching and left):
            previous = self.core.groups[group].loaded if left else None
            self.drained.discard(group)
            del self.switching[group]
            actions = self.core.switch_failed(
                group, "x", [], self.now, blame=blame, loaded=previous
            )
            self.apply(actions)

    @rule(model=names)
    def lose(self, model: str) -> None:
        group = self.core.models.get(model, "")
        if not group or group in self.switching or self.core.groups[group].loaded != model:
            return
        broken = [ticket for ticket, place in self.held.items() if place == (group, model)]
        for ticket in broken:
            del self.held[ticket]
        self.apply(self.core.lost(model, self.now))
        for ticket in broken:
            self.apply(self.core.leave(ticket, self.now))

    @rule(group=st.sampled_from(GROUPS))
    def unload(self, group: str) -> None:
        if not self.stopping:
            self.apply(self.core.unload(group))

    @rule(model=names)
    def restart(self, model: str) -> None:
        if model in self.core.models and not self.stopping:
            self.apply(self.core.restart(model, self.now))

    @rule(model=names, seconds=st.sampled_from([0.5, 8.0, 60.0]))
    def pin(self, model: str, seconds: float) -> None:
        if model in self.core.models:
            self.apply(self.core.pin(model, self.now + seconds, self.now))

    @rule(model=names)
    def unpin(self, model: str) -> None:
        if model in self.core.models:
            self.apply(self.core.unpin(model, self.now))

    @rule(model=names)
    def clear(self, model: str) -> None:
        self.core.clear(model)

    @rule(
        groups=st.dictionaries(names, st.sampled_from(GROUPS), min_size=1),
        changed=st.sets(names, max_size=2),
    )
    def configure(self, groups: dict[str, str], changed: set[str]) -> None:
        """Models are taken away, added, changed, and moved to another group."""
        self.apply(self.core.configure(groups, LIMITS, self.now, changed=changed))

    @rule(at=st.integers(0, 30))
    def stop(self, at: int) -> None:
        # seldom: little happens afterwards
        if at == 30:
            self.stopping = True
            self.apply(self.core.stop())

    @invariant()
    def both_sides_agree(self) -> None:
        waiting: dict[int, tuple[str, str]] = {}
        held: dict[int, tuple[str, str]] = {}
        for name, group in self.core.groups.items():
            waiting |= {w.ticket: (name, w.model) for q in group.queues.values() for w in q.all()}
            held |= {w.ticket: (name, w.model) for q in group.leases.values() for w in q.all()}
        assert waiting == self.waiting, "a request was lost"
        assert held == self.held

    @invariant()
    def one_model_is_held_in_a_group(self) -> None:
        for name in GROUPS:
            assert len(self.holders(name)) <= 1

    @invariant()
    def a_unit_belongs_to_one_group(self) -> None:
        used = [
            unit
            for group in self.core.groups.values()
            for unit in {group.loaded_unit, group.target_unit} - {None}
        ]
        assert len(used) == len(set(used)), "two groups work on one unit"

    @invariant()
    def nobody_waits_beyond_the_fence_while_nothing_happens(self) -> None:
        assert not (self.stopping and self.waiting)
        for name, group in self.core.groups.items():
            if name in self.switching:
                continue
            everyone = [
                waiter
                for model, queue in group.queues.items()
                # a unit that another group uses still is waited for
                if not self.core._elsewhere(name, model)
                for waiter in queue.all()
            ]
            active = [w for w in everyone if not w.passive]
            for waiter in active:
                assert group.loaded is not None or group.pinned is not None
                assert self.now < waiter.since + MAX_WAIT or group.pinned is not None
            assert not active or self.core.next_wakeup() is not None
            for waiter in everyone:
                assert waiter.model != group.loaded or active, "a grant was forgotten"


RUNS = int(os.environ.get("ROUNDHOUSE_RUNS", 300))
PARTS = 8


# in parts, for several processes, and because one with thousands of runs remembers them all
@pytest.mark.parametrize("part", range(PARTS))
def test_all_rules_hold_whatever_happens_in_whatever_order(part: int) -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=-(-RUNS // PARTS),
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=True,
            # how fast examples are made says something about the machine only
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
