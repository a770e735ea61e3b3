"""What /metrics says of who waits, of models that are refused, and before anything has happened."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llm_router.api.metrics import Metrics
from llm_router.events import EventStream, MemoryNotReleased, ModelLost, StepEnded, SwitchEnded
from llm_router.scheduler.core import Core, Limits
from llm_router.scheduler.service import RunningSwitch, Scheduler


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def _never(_: RunningSwitch) -> None:
    await asyncio.Event().wait()


def made(clock: Clock, limits: Limits | None = None) -> tuple[Scheduler, EventStream, Metrics]:
    core = Core({"a": "g", "b": "g"}, limits or Limits())
    scheduler, events = Scheduler(core, _never, clock), EventStream()
    return scheduler, events, Metrics(scheduler, events, set)


def value(metrics: Metrics, series: str) -> float:
    """Raises ValueError where the series is not there."""
    for line in metrics.text().decode().splitlines():
        if line.startswith(series + " "):
            return float(line.removeprefix(series))
    raise ValueError(series)


def test_the_longest_wait_is_that_of_the_first_who_waits() -> None:
    clock = Clock()
    scheduler, _, metrics = made(clock)
    longest = 'llm_router_longest_wait_seconds{model="a"}'
    assert value(metrics, longest) == 0
    passive = scheduler.request("a", passive=True)
    clock.now += 2
    active = scheduler.request("a")
    clock.now += 3
    assert value(metrics, longest) == 5
    assert value(metrics, 'llm_router_longest_wait_seconds{model="b"}') == 0
    passive.close()
    assert value(metrics, longest) == 3
    active.close()
    assert value(metrics, longest) == 0


def test_a_model_is_refused_after_too_many_failures_until_it_is_cleared_or_loaded() -> None:
    clock = Clock()
    scheduler, _, metrics = made(clock, Limits(max_failures=2, rollback=False))
    core, refused = scheduler.core, 'llm_router_model_refused{model="a"}'
    for expected in (0, 1):
        core.request(1, "a", clock.now)
        core.switch_failed("g", "out of memory", (), clock.now)
        assert value(metrics, refused) == expected
    core.loaded("a", clock.now)
    assert value(metrics, refused) == 0
    core.lost("a", clock.now)
    assert value(metrics, refused) == 1
    core.clear("a")
    assert value(metrics, refused) == 0
    assert value(metrics, 'llm_router_model_refused{model="b"}') == 0


def test_what_counts_failures_is_there_before_the_first() -> None:
    clock = Clock()
    scheduler, events, metrics = made(clock)
    lost = 'llm_router_engines_lost_total{model="a"}'
    kept = 'llm_router_gpu_memory_not_released_total{model="a"}'
    failed = 'llm_router_switches_total{model="a",outcome="failed",reason="request"}'
    unload = 'llm_router_switches_total{model="",outcome="failed",reason="idle"}'
    step = 'llm_router_switch_step_seconds_count{outcome="failed",step="WaitUntilReady"}'
    names = (lost, kept, failed, unload, step)
    assert [value(metrics, name) for name in names] == [0, 0, 0, 0, 0]
    events.publish(ModelLost("g", "a", "killed"))
    events.publish(MemoryNotReleased("g", "a"))
    events.publish(StepEnded("g", "WaitUntilReady", "a", 1.0, "no"))
    events.publish(SwitchEnded("g", "a", None, 1.0, "request", "no"))
    events.publish(SwitchEnded("g", None, "a", 1.0, "idle", "no"))
    assert [value(metrics, name) for name in names] == [1, 1, 1, 1, 1]
    # a model that comes with a new configuration too
    scheduler.configure({"a": "g", "new": "g"}, Limits(), ())
    assert value(metrics, 'llm_router_engines_lost_total{model="new"}') == 0


def test_the_text_is_that_of_the_library() -> None:
    _, events, metrics = made(Clock())
    metrics.request_ended('a"\\\n', "/v1/chat/completions", 200, 0.1)
    metrics.request_ended("b", "/v1/chat/completions", 503, None)
    metrics.answered("a", 0.1, 3_000_000, 12.5, 7)
    events.publish(SwitchEnded("g", "a", None, 1.0, "request", None))
    events.publish(StepEnded("g", "Start", "a", 1e-5, None))
    text = metrics.text()
    assert text.endswith(generate_latest(metrics.registry))
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    for name in ("loaded", "state", "failures", "refused"):
        assert families[f"llm_router_model_{name}"].type == "gauge"
    assert asyncio.run(metrics.scrape()) == text


def test_a_scrape_of_a_thousand_models_gives_streams_their_turn() -> None:
    """Measured in the thread's own time: other work of the machine is not in it."""
    models = {f"model-{n}": "g" for n in range(1000)}
    scheduler = Scheduler(Core(models, Limits()), _never, Clock())
    metrics = Metrics(scheduler, EventStream(), set)
    for name in models:
        metrics.request_ended(name, "/v1/chat/completions", 200, 0.1)
        metrics.answered(name, 0.1, 100, 50.0, 10)

    async def longest_turn() -> float:
        longest, scrape = 0.0, asyncio.create_task(metrics.scrape())
        while not scrape.done():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
        assert scrape.result().count(b"llm_router_model_state{") == 5000
        return longest

    assert min(asyncio.run(longest_turn()) for _ in range(2)) < 0.025


def test_models_may_come_and_go_during_a_scrape() -> None:
    scheduler, _, metrics = made(Clock())
    pieces = metrics._pieces()
    text = next(pieces) + next(pieces)
    scheduler.configure({"a": "g", "new": "g"}, Limits(), ())
    text += "".join(pieces)
    assert 'llm_router_requests_waiting{model="b"}' not in text
    assert 'llm_router_requests_waiting{model="new"} 0.0' in text
