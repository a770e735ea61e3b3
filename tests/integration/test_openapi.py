"""Requests made out of the router's own description: no fault of its own, nothing undocumented."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .conftest import Router

pytestmark = pytest.mark.openapi
PATIENCE = 40.0
"""Seconds for all operations together."""
EXAMPLES = 20
ANSWERED = {"POST /v1/chat/completions": 200, "POST /v1/messages": 501}
"""What must have been answered in this way at least once."""
ENDLESS = {"/admin/events", "/admin/live"}
CONFORMANCE = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def described(router: Router) -> dict[str, Any]:
    """The description of a router with every kind of model, which names them."""
    models = {
        "a": {**router.standin("a"), "aliases": ["alias"], "variants": {"a:1": {"strip": ["n"]}}},
        "b": router.standin("b"),
        "broken": router.standin("broken", fault="exit-while-loading"),
        "t": {**router.standin("t", engine="tabby"), "backend": "tabby"},
    }
    router.write(models, switch={"timeout": 5, "stop_timeout": 0.5})
    router.start()
    document: dict[str, Any] = httpx.get(router.url + "/openapi.json").json()
    names = [*models, "alias", "a:1", "none"]
    for path in ENDLESS:
        del document["paths"][path]
    for methods in document["paths"].values():
        for entry in methods.values():
            for media in entry.get("requestBody", {}).get("content", {}).values():
                named = media.get("schema", {}).get("properties", {})
                if "model" in named:
                    named["model"] = {"type": "string", "enum": names}
            for parameter in entry.get("parameters", ()):
                if parameter["name"] == "model":
                    parameter["schema"] = {"type": "string", "enum": names}
    for name in ("SwitchCall", "PinCall", "_ModelCall"):
        model = document["components"]["schemas"][name]["properties"]
        model["model"] = {"type": "string", "enum": names}
    # one that waits would wait for the others, and one that is drained says 503
    document["components"]["schemas"]["DrainCall"]["properties"]["on"]["enum"] = [False]
    # a longer pin would have every other model refused from then on
    document["components"]["schemas"]["PinCall"]["properties"]["seconds"]["maximum"] = 0.01
    return document


def test_it_keeps_to_its_own_description(router: Router, described: dict[str, Any]) -> None:
    schema = schemathesis.openapi.from_dict(described)
    seen: dict[str, set[int]] = {}
    operations = list(schema.get_all_operations())
    for found in operations:
        assert isinstance(found, Ok), found
        operation = found.ok()
        # each has its share: those that load models would leave no time for the others
        share = PATIENCE if operation.label in ANSWERED else 2 * PATIENCE / len(operations)
        holds(router, operation, time.monotonic() + share, seen)
    assert httpx.get(router.url + "/health").status_code == 200
    assert "failed inside the router" not in (router.dir / "router.log").read_text()
    assert len(seen) == sum(len(methods) for methods in described["paths"].values()), seen
    assert {label for label, status in ANSWERED.items() if status not in seen[label]} == set()


def holds(router: Router, operation: Any, until: float, seen: dict[str, set[int]]) -> None:
    """Ask for one operation in many ways, and note in ``seen`` what was answered."""

    @settings(
        max_examples=EXAMPLES * (4 if operation.label in ANSWERED else 1),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if operation.label in seen and time.monotonic() > until:
            return
        answer = case.call(base_url=router.url)
        seen.setdefault(operation.label, set()).add(answer.status_code)
        assert answer.status_code != 500, (operation.label, answer.text)
        case.validate_response(answer, checks=CONFORMANCE)

    check()
