"""The parts that all checks share: the router, the models, the time budget and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread

from llm_router.config.load import Settings
from llm_router.qualify import host, plan
from llm_router.qualify.client import CallFailed, RouterClient
from llm_router.qualify.measure import Answer
from llm_router.qualify.plan import Budget, Way
from llm_router.qualify.report import Report, Row, Status, Value, clean

Values = Mapping[str, Value]

PROMPT = "Write the numbers from 1 to 40, separated by commas. Begin with {}."
WORDS = "Say hello in one sentence."
TOKENS, FEW_TOKENS = 96, 32
ASKED = {
    "chat": ("/v1/chat/completions", "messages"),
    "completions": ("/v1/completions", "prompt"),
    "embeddings": ("/v1/embeddings", "input"),
}
"""By operation: its path, and the key of what is asked. The first that a model answers is used."""
REST_POLL = 0.25
REST_STEADY = 0.75
REST_WITHIN = 10.0
"""Seconds that GPU memory may take to come to rest before it is read."""
MOVES = 64 << 20
"""Bytes that GPU memory may move by and count as at rest."""
ANSWER_SECONDS = 120.0
MARGIN_SECONDS = 60.0
"""Beyond the router's own deadlines, so that the router's error comes first."""


class Session:
    """``models``: those that are checked, by name. ``nvml``: the module, or None without a GPU.
    ``told`` gets each row as soon as it is found."""

    def __init__(
        self,
        settings: Settings,
        router: RouterClient,
        report: Report,
        names: Sequence[str],
        *,
        nvml: Any = None,
        told: Callable[[Row], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.models = {name: settings.models[name] for name in names}
        self.groups = {name: model.group for name, model in self.models.items()}
        self.router = router
        self.report = report
        self.nvml = nvml
        self.clock = clock
        self.budget = Budget(report.budget_seconds)
        self.phase: plan.Phase = "models"
        self.operations: dict[str, str] = {}
        """By model that answered: by which operation."""
        self.load_seconds: dict[str, float] = {}
        """By model that was loaded."""
        self.others: set[int] = set()
        """Requests that were seen and are not this check's."""
        self._known = settings.models
        self._switch = settings.config.switch
        self._drain_timeout = settings.config.scheduler.drain_timeout
        self._told = told
        self._began = clock()

    # rows and time

    def add(
        self,
        check: str,
        subject: str,
        outcome: tuple[Status, str],
        *,
        part: str = "",
        seconds: float | None = None,
        values: Values | None = None,
    ) -> None:
        """A row; ``outcome``: its status, and the sentence that says why."""
        known = {key: value for key, value in (values or {}).items() if value is not None}
        row = Row(check, subject, outcome[0], clean(outcome[1]), part, seconds, known)
        self.report.rows.append(row)
        self._told(row)

    def skip(self, subject: str, checks: Collection[str], why: str) -> None:
        """A row for each of the checks that are left out."""
        for check in checks:
            self.add(check, subject, ("skipped", why))

    def left(self) -> float:
        """Seconds that the phase has."""
        return self.budget.left(self.phase, self.clock() - self._began)

    def too_late(self, estimate: float | None) -> str | None:
        """Why something that takes so long is not begun any more, or None."""
        return plan.needs(estimate, self.left())

    # the router

    async def load(self, name: str, within: float | None = None) -> dict[str, Any]:
        """Load the model, within the time that the phase has left. Raises `CallFailed`; a switch
        that was too slow is cancelled first."""
        seconds = within if within is not None else max(1.0, self.left())
        body = {"model": name, "timeout": seconds}
        try:
            return await self.router.call(
                "POST", "/admin/switch", body=body, seconds=seconds + MARGIN_SECONDS
            )
        except CallFailed as error:
            if error.code == "switch_timeout" and name in self.groups:
                await self.cancel(self.groups[name])
            raise

    async def unload(self, group: str, way: Way | None = None) -> dict[str, Any]:
        """Free the group's device; without a way, everything of the group is stopped. Raises
        `CallFailed`."""
        body = {"group": group} if way is None else {"group": group, "residency": way}
        limits = self._switch
        # answers of others may end first, for as long as the phase lasts
        drain = min(self._drain_timeout, max(0.0, self.left()))
        seconds = drain + limits.stop_timeout + limits.sleep_timeout + MARGIN_SECONDS
        return await self.router.call("POST", "/admin/unload", body=body, seconds=seconds)

    async def cancel(self, group: str) -> None:
        """End the group's running switch, if there is one. Raises `CallFailed`."""
        status = await self.router.call("GET", "/admin/status")
        if any(switch["group"] == group for switch in status["switches"]):
            seconds = self._switch.stop_timeout + MARGIN_SECONDS
            await self.router.call("POST", "/admin/cancel", body={"group": group}, seconds=seconds)

    async def state(self, name: str) -> str:
        """The model's state; "unknown" where the router does not answer."""
        try:
            status = await self.router.call("GET", "/admin/status")
        except CallFailed:
            return "unknown"
        return str(status["models"][name]["state"])

    async def expected(self, name: str) -> float | None:
        """Seconds that a load would take now, by what the router has learned."""
        try:
            said = await self.router.call("GET", "/admin/plan", query={"model": name})
        except CallFailed:
            return None
        expected = said.get("expected_seconds")
        return float(expected) if isinstance(expected, (int, float)) else None

    async def look_for_others(self) -> None:
        """Note requests in flight; this check has none when it is called."""
        try:
            requests = (await self.router.call("GET", "/admin/requests"))["requests"]
        except CallFailed:
            return
        self.others |= {int(one["id"]) for one in requests}

    def patience(self, name: str) -> float:
        """Seconds that a load may take by the router's own deadlines."""
        model = self._known.get(name)
        load = (model.timeout if model is not None else None) or self._switch.timeout
        return load + self._switch.memory_timeout + self._switch.stop_timeout + MARGIN_SECONDS

    # requests

    async def ask(self, name: str, operation: str) -> Answer:
        """One short answer, not streamed."""
        path, key = ASKED[operation]
        body = _body(name, operation, key, WORDS, FEW_TOKENS)
        return await self.router.ask(path, body, ANSWER_SECONDS)

    async def stream(
        self,
        name: str,
        number: int,
        first: anyio.Event | None = None,
        *,
        tokens: int = TOKENS,
        within: float | None = None,
    ) -> Answer:
        """One streamed answer, of vectors a whole one. ``first`` as in `RouterClient.stream`;
        ``within``: seconds, in place of all that a load and an answer may take."""
        operation = self.operations[name]
        if operation == "embeddings":
            answer = await self.ask(name, operation)
            if first is not None:
                first.set()
            return answer
        path, key = ASKED[operation]
        body = _body(name, operation, key, PROMPT.format(number + 1), tokens)
        seconds = within if within is not None else ANSWER_SECONDS + self.patience(name)
        return await self.router.stream(path, body, seconds, first)

    def wrong(self, name: str, answer: Answer) -> str | None:
        """What is wrong with an answer of the model, or None."""
        return answer.wrong(plan.names_in_answers(self.models[name]))

    # the GPUs

    async def used_memory(self) -> int | None:
        """Bytes in use on all GPUs together, when that has come to rest; None without a GPU."""
        if self.nvml is None:
            return None
        until = self.clock() + REST_WITHIN
        seen: list[tuple[float, int]] = []
        while True:
            now = await anyio.to_thread.run_sync(host.memory, self.nvml, abandon_on_cancel=True)
            if now is None:
                return None
            seen.append((self.clock(), now.used))
            last = seen[-1][0]
            recent = [used for when, used in seen if when >= last - REST_STEADY]
            steady = last - seen[0][0] >= REST_STEADY and max(recent) - min(recent) <= MOVES
            if steady or last >= until:
                return now.used
            await anyio.sleep(REST_POLL)


def outcome_of(error: CallFailed) -> tuple[Status, str]:
    """Of a load that failed. One that the time budget has ended is no fault of its model."""
    if error.code == "switch_timeout":
        return "skipped", f"the time budget ended before it was loaded: {error}"
    return "failed", str(error)


def gigabytes(size: int) -> str:
    """For people."""
    return f"{size / 1e9:.1f} GB"


def between(less: int | None, more: int | None) -> int | None:
    """The difference, where both are known."""
    return more - less if less is not None and more is not None else None


def _body(name: str, operation: str, key: str, words: str, tokens: int) -> dict[str, Any]:
    if operation == "embeddings":
        return {"model": name, key: words}
    said: Any = [{"role": "user", "content": words}] if operation == "chat" else words
    return {"model": name, key: said, "max_tokens": tokens, "temperature": 0}
