"""Prometheus: counters where things happen, gauges read from live state at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llm_router import __version__
from llm_router.events import (
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

_LOADS: tuple[Reason, ...] = ("request", "adopt", "rollback")
_UNLOADS: tuple[Reason, ...] = ("idle", "operator", "removed", "restart")


class _Live(Collector):
    """What is true at the moment of the scrape."""

    def __init__(self, scheduler: Scheduler, asleep: Callable[[], Collection[str]]) -> None:
        self._scheduler = scheduler
        self._asleep = asleep

    def collect(self) -> Iterable[Metric]:
        """Gauges of every model and the build."""
        loaded = GaugeMetricFamily(
            "llm_router_model_loaded", "1 for a model that is loaded", labels=["model", "group"]
        )
        in_flight = GaugeMetricFamily(
            "llm_router_requests_in_flight", "Requests that hold a lease", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "llm_router_requests_waiting", "Requests that wait for their model", labels=["model"]
        )
        failed = GaugeMetricFamily(
            "llm_router_model_failures",
            "Switches to the model that failed in a row",
            labels=["model"],
        )
        refused = GaugeMetricFamily(
            "llm_router_model_refused",
            "1 for a model that failed too often and is refused until it is cleared",
            labels=["model"],
        )
        longest = GaugeMetricFamily(
            "llm_router_longest_wait_seconds",
            "How long the oldest request that waits for the model has waited",
            labels=["model"],
        )
        core = self._scheduler.core
        for name, group_name in core.models.items():
            group = core.groups[group_name]
            loaded.add_metric([name, group_name], float(group.current == name))
            in_flight.add_metric([name], group.in_flight(name))
            waiting.add_metric([name], group.waiting(name))
            failure = core.failures.get(name)
            failed.add_metric([name], failure.count if failure else 0)
            refused.add_metric([name], float(core.is_refused(name)))
            longest.add_metric([name], self._scheduler.longest_wait(name))
        state = GaugeMetricFamily(
            "llm_router_model_state",
            "1 for the state that a model is in",
            labels=["model", "state"],
        )
        asleep = self._asleep()
        for name in core.models:
            now = core.state_of(name, asleep)
            for one in get_args(State):
                state.add_metric([name, one], float(one == now))
        build = GaugeMetricFamily(
            "llm_router_build_info", "The router's version", labels=["version"]
        )
        build.add_metric([__version__], 1)
        return [loaded, in_flight, waiting, longest, failed, refused, state, build]


Kind = TypeVar("Kind", Counter, Histogram)


class _By(Generic[Kind]):
    """A metric's children by their labels: looked up once, because each request needs some."""

    def __init__(self, metric: Kind) -> None:
        self._metric: Kind = metric
        self._children: dict[tuple[str, ...], Kind] = {}

    def __call__(self, *labels: str) -> Kind:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class Metrics:
    """The router's metrics, in a registry of their own."""

    def __init__(
        self, scheduler: Scheduler, events: EventStream, asleep: Callable[[], Collection[str]]
    ) -> None:
        self._core = scheduler.core
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Live(scheduler, asleep))
        self._requests = _By(
            Counter(
                "llm_router_requests",
                "Requests that ended, by HTTP status",
                ["model", "path", "status"],
                registry=self.registry,
            )
        )
        self._queue = _By(
            Histogram(
                "llm_router_queue_seconds",
                "Time that a request waited for its turn",
                ["model"],
                buckets=_LONG,
                registry=self.registry,
            )
        )
        self._ttft = _By(
            Histogram(
                "llm_router_time_to_first_token_seconds",
                "From the request to the engine until its first token",
                ["model"],
                buckets=_SHORT,
                registry=self.registry,
            )
        )
        self._rate = _By(
            Histogram(
                "llm_router_tokens_per_second",
                "Generation speed of an answer",
                ["model"],
                buckets=_RATE,
                registry=self.registry,
            )
        )
        self._tokens = _By(
            Counter(
                "llm_router_generated_tokens",
                "Tokens that engines generated",
                ["model"],
                registry=self.registry,
            )
        )
        self._prompt = _By(
            Counter(
                "llm_router_prompt_tokens",
                "Tokens of prompts, where the engine counted them",
                ["model"],
                registry=self.registry,
            )
        )
        self._switches = Counter(
            "llm_router_switches",
            "Switches that ended",
            ["model", "reason", "outcome"],
            registry=self.registry,
        )
        self._load = Histogram(
            "llm_router_switch_seconds",
            "Duration of successful switches",
            ["model"],
            buckets=_LONG,
            registry=self.registry,
        )
        self._steps = Histogram(
            "llm_router_switch_step_seconds",
            "Duration of the steps of switches",
            ["step", "outcome"],
            buckets=_LONG,
            registry=self.registry,
        )
        self._lost = Counter(
            "llm_router_engines_lost",
            "Engines that ended without having been asked to",
            ["model"],
            registry=self.registry,
        )
        self._unreleased = Counter(
            "llm_router_gpu_memory_not_released",
            "Engines that went and whose GPU memory did not come back in time",
            ["model"],
            registry=self.registry,
        )
        events.subscribe(self._on_event)

    def text(self) -> bytes:
        """Prometheus' text format.

        What counts failures is there before the first of them: in a series that begins with 1
        Prometheus sees no increase, and an alert would miss what happened once.
        """
        for model in self._core.models:
            self._lost.labels(model)
            self._unreleased.labels(model)
            for reason in _LOADS:
                self._switches.labels(model, reason, "failed")
        for reason in _UNLOADS:
            self._switches.labels("", reason, "failed")
        for step in plan.NAMES:
            self._steps.labels(step, "failed")
        return generate_latest(self.registry)

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
            self._switches.labels(event.model or "", event.reason, outcome).inc()
            if event.error is None and event.model is not None:
                self._load.labels(event.model).observe(event.seconds)
        elif isinstance(event, StepEnded):
            self._steps.labels(event.step, "failed" if event.error else "ok").observe(event.seconds)
        elif isinstance(event, ModelLost):
            self._lost.labels(event.model).inc()
        elif isinstance(event, MemoryNotReleased):
            self._unreleased.labels(event.model).inc()
