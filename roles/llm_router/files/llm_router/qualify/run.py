"""Makes the checks, one after the other, and restores the models that were loaded before.

All requests go to the router; only NVML and the CUDA compiler are used beside it. Each check adds
its rows at once, so the report of a run that was ended has all results until then.
"""

from __future__ import annotations

from llm_router.qualify import plan
from llm_router.qualify.check_host import check_host
from llm_router.qualify.check_model import check_model
from llm_router.qualify.check_residency import check_residencies
from llm_router.qualify.check_switches import check_switches
from llm_router.qualify.client import CallFailed
from llm_router.qualify.plan import Budget, NotRun
from llm_router.qualify.report import Status, counted
from llm_router.qualify.session import Session

ATTEMPTS = 3


class Qualification:
    """The checks of one host: `prepare`, then `run`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: dict[str, str | None] = {}
        """By group: the model that was loaded when the checks began."""

    async def prepare(self, *, force: bool) -> None:
        """Check whether models may be switched now, and note which are loaded. Changes nothing.
        Raises `NotRun`, `CallFailed`."""
        session = self._session
        status = await session.router.call("GET", "/admin/status")
        unknown = [name for name in session.models if name not in status["models"]]
        if unknown:
            raise NotRun(
                f"the running router does not know {', '.join(unknown)}; run `llm-router reload`"
            )
        requests = (await session.router.call("GET", "/admin/requests"))["requests"]
        groups = list(dict.fromkeys(session.groups.values()))
        if pins := plan.pinned(status, groups):
            raise NotRun("; ".join(pins))
        forbidden = plan.what_forbids(status, requests, groups)
        if forbidden and not force:
            raise NotRun(
                f"{'; '.join(forbidden)}. The check switches models, which others would notice: "
                "run `llm-router drain` first, or add --force"
            )
        self._before = {group: status["groups"][group]["loaded"] for group in groups}
        again = [status["models"][name]["load_seconds"] for name in self._before.values() if name]
        known = sum(seconds for seconds in again if seconds is not None)
        total = session.report.budget_seconds
        session.budget = Budget(total, min(known, total / 5))

    async def run(self) -> None:
        """Make the checks. `restore` comes after it, however it ends."""
        session = self._session
        await check_host(session)
        for index, name in enumerate(session.models):
            await check_model(session, name, session.left() / (len(session.models) - index))
        session.phase = "residency"
        await check_residencies(session)
        session.phase = "switches"
        await check_switches(session)
        self._quiet()
        session.report.finished = True

    def _quiet(self) -> None:
        others = len(self._session.others)
        why = f"the router had {counted(others, 'request')} of others: they can change the figures"
        none = "no requests of others were seen between the checks"
        self._session.add(
            "quiet",
            "",
            ("skipped", why) if others else ("passed", none),
            values={"requests_of_others": others},
        )

    async def restore(self) -> None:
        """Load the models that were loaded before; unload the groups that were empty. Adds a row
        for each group, also when it is cancelled."""
        for group, name in self._before.items():
            before = f"{name} was loaded" if name is not None else "nothing was loaded"
            why = f"{before} before the check, and that is not restored: "
            outcome: tuple[Status, str] = ("failed", why + "it was ended by a second signal")
            try:
                await self._bring_back(group, name)
                outcome = "passed", f"{before} before the check, and so it is now"
            except CallFailed as error:
                outcome = "failed", why + str(error)
            finally:
                self._session.add("restore", group, outcome)

    async def _bring_back(self, group: str, name: str | None) -> None:
        """Raises `CallFailed`."""
        session = self._session
        for attempt in range(ATTEMPTS):
            # a check that was ended may have left one behind, and a cancelled one is rolled back
            await session.cancel(group)
            try:
                if name is None:
                    await session.unload(group)
                else:
                    await session.load(name, within=session.patience(name))
                return
            except CallFailed as error:
                if error.code != "switch_running" or attempt == ATTEMPTS - 1:
                    raise
