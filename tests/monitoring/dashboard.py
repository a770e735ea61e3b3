"""The dashboard's queries, as Grafana would ask a Prometheus for them."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "roles/monitoring/files/dashboard.json").read_text())
LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")


@dataclass(frozen=True)
class Query:
    """One query of a panel; ``labels`` are those that its legend names."""

    panel: str
    expr: str
    labels: frozenset[str]


def queries() -> Iterator[Query]:
    """Every query of every panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            labels = re.findall(r"{{(\w+)}}", target["legendFormat"])
            yield Query(panel["title"], target["expr"], frozenset(labels))


def variables() -> dict[str, str]:
    """The queries of the variables that are asked of Prometheus, by name."""
    listed = DASHBOARD["templating"]["list"]
    return {one["name"]: one["definition"] for one in listed if one["type"] == "query"}


@dataclass(frozen=True)
class Asked:
    """A Prometheus at ``url``, asked about the time since ``start`` (seconds since 1970)."""

    url: str
    start: float
    step: float = 1.0

    def get(self, path: str, **parameters: Any) -> Any:
        """``data`` of an answer of its API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def series(self, expr: str, chosen: Mapping[str, str]) -> list[dict[str, Any]]:
        """What a query gives: the labels of each series that had a number at some time."""
        found = self.get(
            "query_range",
            query=self.filled_in(expr, chosen),
            start=self.start,
            end=time.time(),
            step=self.step,
        )
        return [
            one["metric"]
            for one in found["result"]
            if any(math.isfinite(float(value)) for _, value in one["values"])
        ]

    def values_of(self, definition: str, chosen: Mapping[str, str]) -> set[str]:
        """What a variable's query, ``label_values(…, label)``, offers."""
        found = LABEL_VALUES.fullmatch(definition)
        assert found is not None, definition
        match = self.filled_in(found[1], chosen)
        listed = self.get("series", **{"match[]": match, "start": self.start, "end": time.time()})
        return {one[found[2]] for one in listed if found[2] in one}

    def filled_in(self, expr: str, chosen: Mapping[str, str]) -> str:
        """As Grafana does it: for a rate four times the scrape interval at least."""
        known = {
            "__rate_interval": f"{max(4, 4 * self.step):.0f}s",
            "__range": f"{max(10, time.time() - self.start):.0f}s",
            **chosen,
        }
        text = re.sub(r"\$(\w+)", lambda name: known[name[1]], expr)
        assert "$" not in text, text
        return text

    def firing(self) -> set[tuple[str, str, str]]:
        """Alert, instance and model (or group) of each alert that fired at some time."""
        return {
            (one["alertname"], one["instance"], one.get("model") or one.get("group", ""))
            for one in self.series('ALERTS{alertstate="firing"}', {})
        }


def see_that_all_have_data(asked: Asked, chosen: Mapping[str, str]) -> None:
    """Every query of the dashboard has data, and the labels that its legend names."""
    empty, nameless = [], []
    for query in queries():
        found = asked.series(query.expr, chosen)
        if not found:
            empty.append(f"{query.panel}: {asked.filled_in(query.expr, chosen)}")
        elif not any(query.labels <= set(one) for one in found):
            nameless.append(f"{query.panel}: {sorted(query.labels)} not in {found[0]}")
    assert not empty, "no data:\n" + "\n".join(empty)
    assert not nameless, "\n".join(nameless)
