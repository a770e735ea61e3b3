"""What the log says of requests and switches; ids join the two.

A request's id is what its client has in the header ``X-Request-Id``; the number in it is the one of
``llm-router requests``. A request that waited for a switch names it, and so does each of its steps.
Of what was asked and answered there is nothing here, and of keys their names.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llm_router.api import activity
from llm_router.events import Event, StepEnded, SwitchEnded, SwitchStarted
from llm_router.logs import Event as Line
from llm_router.logs.lines import Value

if TYPE_CHECKING:
    from llm_router.api.exchange import Exchange

log = logging.getLogger(__name__)


def request_ended(
    identity: str,
    exchange: Exchange,
    status: int,
    error: str | None,
    seconds: float,
    switch: str | None,
    address: str,
) -> None:
    """One line, when a request is over. ``error`` is the code that its client was told, if any;
    ``switch`` is the one that it waited for, if it did."""
    waited = seconds
    if exchange.queue_seconds is not None:
        waited = exchange.queue_seconds + exchange.switch_seconds
    measured, rate, ttft = exchange.measured, exchange.rate, activity.ttft(exchange)
    if rate is None and measured is not None:
        rate = measured.rate
    log.info(
        Line(
            "request",
            {
                "id": identity,
                "model": exchange.model.name,
                "status": status,
                "error": error,
                "key": exchange.caller.name,
                "from": address,
                "path": exchange.path,
                "stream": exchange.stream,
                "waited": round(waited, 3),
                "switch": switch,
                "ttft": None if ttft is None else round(ttft, 3),
                "tokens": None if measured is None else measured.tokens,
                "tokens_per_second": None if rate is None else round(rate, 1),
                "duration": round(seconds, 3),
            },
        )
    )


def request_refused(
    identity: str,
    path: str,
    key: str | None,
    status: int,
    error: str | None,
    seconds: float,
    address: str,
) -> None:
    """One line for a request that was not understood, or not allowed: its model is not known."""
    fields: dict[str, Value] = {"id": identity, "status": status, "error": error, "key": key}
    fields["from"] = address
    log.info(Line("request", {**fields, "path": path, "duration": round(seconds, 3)}))


class SwitchLog:
    """A listener: a line when a switch begins, one for each step that ended, one at its end."""

    def __init__(self, boot: str) -> None:
        self._boot = boot

    def listen(self, event: Event) -> None:
        """Say what happened."""
        if isinstance(event, SwitchStarted):
            log.info(
                Line(
                    "switch_began",
                    {
                        "switch": switch_id(self._boot, event.switch),
                        "group": event.group,
                        "model": event.model,
                        "previous": event.previous,
                        "reason": event.reason,
                    },
                )
            )
        elif isinstance(event, StepEnded):
            self._ended(
                event.error,
                "step",
                {
                    "switch": switch_id(self._boot, event.switch),
                    "step": event.step,
                    "model": event.model,
                    "unit": event.unit,
                    "seconds": round(event.seconds, 3),
                },
            )
        elif isinstance(event, SwitchEnded):
            self._ended(
                event.error,
                "switch_ended",
                {
                    "switch": switch_id(self._boot, event.switch),
                    "group": event.group,
                    "model": event.model,
                    "previous": event.previous,
                    "reason": event.reason,
                    "seconds": round(event.seconds, 3),
                },
            )

    def _ended(self, error: str | None, name: str, fields: dict[str, Value]) -> None:
        level = logging.INFO if error is None else logging.WARNING
        outcome = "ok" if error is None else "failed"
        log.log(level, Line(name, {**fields, "outcome": outcome, "error": error}))


def request_id(boot: str, number: int) -> str:
    """``boot`` tells one run of the router from another: both count from 1."""
    return f"{boot}-{number}"


def switch_id(boot: str, number: int) -> str:
    """As `request_id`, and no request's."""
    return f"{boot}-s{number}"
