"""Prometheus: counters where things happen, gauges read from live state at scrape time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from llm_router import __version__
from llm_router.api.exposition import Family, gauge
from llm_router.events import (
    BackgroundFailed,
    BackgroundTask,
    Event,
    EventStream,
    MemoryNotReleased,
    ModelLost,
    StepEnded,
    SwitchEnded,
)
from llm_router.scheduler.core import Reason, State
from llm_router.scheduler.service import Scheduler
from llm_router.switcher import plan

_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 240, 480)
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RATE = (1, 2, 5, 10, 20, 40, 60, 100, 200, 500, 1000)

SLICE = 0.004
"""Seconds of a scrape's work, after which running streams get their turn."""

_LOADS: tuple[Reason, ...] = ("request", "adopt", "rollback")
_UNLOADS: tuple[Reason, ...] = ("idle", "operator", "removed", "restart")


class _Live:
    """What is true at the moment of the scrape."""

    def __init__(self, scheduler: Scheduler, asleep: Callable[[], Collection[str]]) -> None:
        self._scheduler = scheduler
        self._asleep = asleep

    def pieces(self) -> Iterator[str]:
        """Gauges of every model and the build."""
        core, longest_wait = self._scheduler.core, self._scheduler.longest_wait
        yield from gauge(
            "llm_router_model_loaded",
            "1 for a model that is loaded",
            (
                ((("group", core.models[model]), ("model", model)), loaded)
                for model, loaded in self._values(lambda n: core.group_of(n).current == n)
            ),
        )
        yield from self._of_models(
            "llm_router_requests_in_flight",
            "Requests that hold a lease",
            lambda model: core.group_of(model).in_flight(model),
        )
        yield from self._of_models(
            "llm_router_requests_waiting",
            "Requests that wait for their model",
            lambda model: core.group_of(model).waiting(model),
        )
        yield from self._of_models(
            "llm_router_longest_wait_seconds",
            "How long the oldest request that waits for the model has waited",
            longest_wait,
        )
        yield from self._of_models(
            "llm_router_model_failures",
            "Switches to the model that failed in a row",
            lambda model: core.failures[model].count if model in core.failures else 0,
        )
        yield from self._of_models(
            "llm_router_model_refused",
            "1 for a model that failed too often and is refused until it is cleared",
            core.is_refused,
        )
        yield from gauge(
            "llm_router_model_state", "1 for the state that a model is in", self._states()
        )
        yield from gauge(
            "llm_router_build_info", "The router's version", [((("version", __version__),), 1.0)]
        )

    def _of_models(
        self, name: str, documentation: str, value: Callable[[str], float]
    ) -> Iterator[str]:
        samples = (((("model", model),), number) for model, number in self._values(value))
        return gauge(name, documentation, samples)

    def _values(self, value: Callable[[str], float]) -> Iterator[tuple[str, float]]:
        """Of each model. One may be removed while others are written."""
        core = self._scheduler.core
        for model in list(core.models):
            if model in core.models:
                yield model, value(model)

    def _states(self) -> Iterator[tuple[tuple[tuple[str, str], ...], float]]:
        core, asleep = self._scheduler.core, frozenset(self._asleep())
        for model in list(core.models):
            if model not in core.models:
                continue
            state = core.state_of(model, asleep)
            for one in get_args(State):
                yield (("model", model), ("state", one)), one == state


class Metrics:
    """The router's metrics, in a registry of their own."""

    def __init__(
        self, scheduler: Scheduler, events: EventStream, asleep: Callable[[], Collection[str]]
    ) -> None:
        self._core = scheduler.core
        self.registry = CollectorRegistry(auto_describe=False)
        self._families: list[Family[Counter] | Family[Histogram]] = []
        self._live = _Live(scheduler, asleep)
        self._requests = self._counter(
            "llm_router_requests",
            "Requests that ended, by HTTP status",
            ["model", "path", "status"],
        )
        self._queue = self._histogram(
            "llm_router_queue_seconds",
            "Time that a request waited for its turn",
            ["model"],
            _LONG,
        )
        self._ttft = self._histogram(
            "llm_router_time_to_first_token_seconds",
            "From the request to the engine until its first token",
            ["model"],
            _SHORT,
        )
        self._rate = self._histogram(
            "llm_router_tokens_per_second",
            "Generation speed of an answer",
            ["model"],
            _RATE,
        )
        self._tokens = self._counter(
            "llm_router_generated_tokens",
            "Tokens that engines generated",
            ["model"],
        )
        self._prompt = self._counter(
            "llm_router_prompt_tokens",
            "Tokens of prompts, where the engine counted them",
            ["model"],
        )
        self._switches = self._counter(
            "llm_router_switches",
            "Switches that ended",
            ["model", "reason", "outcome"],
        )
        self._load = self._histogram(
            "llm_router_switch_seconds",
            "Duration of successful switches",
            ["model"],
            _LONG,
        )
        self._steps = self._histogram(
            "llm_router_switch_step_seconds",
            "Duration of the steps of switches",
            ["step", "outcome"],
            _LONG,
        )
        self._lost = self._counter(
            "llm_router_engines_lost",
            "Engines that ended without having been asked to",
            ["model"],
        )
        self._unreleased = self._counter(
            "llm_router_gpu_memory_not_released",
            "Engines that went and whose GPU memory did not come back in time",
            ["model"],
        )
        self._background = self._counter(
            "llm_router_background_failures",
            "Faults of the router in what goes on beside requests; it goes on all the same",
            ["task"],
        )
        events.subscribe(self._on_event)

    def _counter(self, name: str, documentation: str, labels: Sequence[str]) -> Family[Counter]:
        counter = Counter(name, documentation, labels, registry=self.registry)
        made: Family[Counter] = Family(counter, labels)
        self._families.append(made)
        return made

    def _histogram(
        self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Family[Histogram]:
        histogram = Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)
        made: Family[Histogram] = Family(histogram, labels)
        self._families.append(made)
        return made

    async def scrape(self) -> bytes:
        """As `text`, and everybody else gets a turn every `SLICE` seconds."""
        parts: list[bytes] = []
        part: list[str] = []
        until = time.perf_counter() + SLICE
        for piece in self._pieces():
            part.append(piece)
            if time.perf_counter() >= until:
                parts.append("".join(part).encode())
                part.clear()
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE
        return b"".join([*parts, "".join(part).encode()])

    def text(self) -> bytes:
        """Prometheus' text format."""
        return "".join(self._pieces()).encode()

    def _pieces(self) -> Iterator[str]:
        yield from self._live.pieces()
        yield from self._before_the_first()
        for family in self._families:
            yield from family.pieces()

    def _before_the_first(self) -> Iterator[str]:
        """What counts failures is there before the first of them: in a series that begins with 1
        Prometheus sees no increase, and an alert would miss what happened once."""
        for model in list(self._core.models):
            self._lost(model)
            self._unreleased(model)
            for reason in _LOADS:
                self._switches(model, reason, "failed")
            yield ""
        for reason in _UNLOADS:
            self._switches("", reason, "failed")
        for task in get_args(BackgroundTask):
            self._background(task)
        for step in plan.NAMES:
            self._steps(step, "failed")

    def request_ended(
        self, model: str, path: str, status: int, queue_seconds: float | None
    ) -> None:
        """A request is over; ``queue_seconds`` is None when it got no lease."""
        self._requests(model, path, str(status)).inc()
        if queue_seconds is not None:
            self._queue(model).observe(queue_seconds)

    def answered(
        self,
        model: str,
        ttft: float | None,
        tokens: int,
        rate: float | None,
        prompt_tokens: object = None,
    ) -> None:
        """An engine's answer was relayed; ``prompt_tokens`` is as the engine said it, if it did."""
        self._tokens(model).inc(tokens)
        if isinstance(prompt_tokens, int):
            self._prompt(model).inc(prompt_tokens)
        if ttft is not None:
            self._ttft(model).observe(ttft)
        if rate is not None:
            self._rate(model).observe(rate)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SwitchEnded):
            outcome = "failed" if event.error else "ok"
            self._switches(event.model or "", event.reason, outcome).inc()
            if event.error is None and event.model is not None:
                self._load(event.model).observe(event.seconds)
        elif isinstance(event, StepEnded):
            self._steps(event.step, "failed" if event.error else "ok").observe(event.seconds)
        elif isinstance(event, ModelLost):
            self._lost(event.model).inc()
        elif isinstance(event, MemoryNotReleased):
            self._unreleased(event.model).inc()
        elif isinstance(event, BackgroundFailed):
            self._background(event.task).inc()
