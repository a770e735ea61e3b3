"""Commands that ask the running router for one thing and print its answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from llm_router.cli.client import AdminClient
from llm_router.cli.exits import Exit
from llm_router.cli.settings import config_of
from llm_router.cli.view import request_lines
from llm_router.json_codec import json_text


def client_of(options: argparse.Namespace) -> AdminClient:
    """A client of the configured router. Raises `Failed`."""
    return AdminClient(config_of(options).admin_socket)


def switch(options: argparse.Namespace) -> int:
    """Have a model loaded, and wait for it."""
    call = {"model": options.model, "timeout": options.timeout}
    # the router's own deadline comes first: it knows why
    answer = client_of(options).call("POST", "/admin/switch", body=call, timeout=None)
    return _show(options, answer, _switch_lines)


def unload(options: argparse.Namespace) -> int:
    """Free a device group."""
    call = {"group": options.group}
    answer = client_of(options).call("POST", "/admin/unload", body=call, timeout=None)
    return _show(options, answer, _unload_lines)


def reload(options: argparse.Namespace) -> int:
    """Have the configuration files read again."""
    call = {"dry_run": options.dry_run}
    answer = client_of(options).call("POST", "/admin/reload", body=call)
    return _show(options, answer, _reload_lines)


def plan(options: argparse.Namespace) -> int:
    """What a request for a model would do now."""
    answer = client_of(options).call("GET", "/admin/plan", query={"model": options.model})
    return _show(options, answer, _plan_lines)


def logs(options: argparse.Namespace) -> int:
    """The last log lines of a model's unit."""
    query = {"model": options.model, "lines": options.lines}
    answer = client_of(options).call("GET", "/admin/logs", query=query)
    return _show(options, answer, lambda body: list(body["lines"]))


def requests(options: argparse.Namespace) -> int:
    """The requests that wait or are answered now."""
    answer = client_of(options).call("GET", "/admin/requests")
    return _show(options, answer, lambda body: request_lines(body["requests"]))


def cancel(options: argparse.Namespace) -> int:
    """End a request, or a group's running switch."""
    client = client_of(options)
    if options.switch:
        call = {"group": options.group}
        answer = client.call("POST", "/admin/cancel", body=call, timeout=None)
        return _show(options, answer, _cancel_lines)
    answer = client.call("DELETE", f"/admin/requests/{options.id}")
    return _show(options, answer, lambda body: [f"request {body['id']} is ended"])


def drain(options: argparse.Namespace) -> int:
    """Have balancers send requests elsewhere, and wait for those under way."""
    # for ever, where no time is given: a day is longer than any answer
    call = {"on": False} if options.off else {"on": True, "timeout": options.timeout or 86400}
    answer = client_of(options).call("POST", "/admin/drain", body=call, timeout=None)
    return _show(options, answer, _drain_lines)


def pin(options: argparse.Namespace) -> int:
    """Load a model, and keep every other of its group out for a time."""
    call = {"model": options.model, "seconds": options.seconds}
    answer = client_of(options).call("POST", "/admin/pin", body=call, timeout=None)
    return _show(
        options, answer, lambda body: [f"{body['model']} is pinned for {body['seconds']:g} s"]
    )


def unpin(options: argparse.Namespace) -> int:
    """Let other models be loaded again."""
    call = {"model": options.model, "seconds": 0}
    answer = client_of(options).call("POST", "/admin/pin", body=call)
    return _show(options, answer, lambda body: [f"{body['model']} is not pinned"])


def clear(options: argparse.Namespace) -> int:
    """Forget a model's failures."""
    answer = client_of(options).call("POST", "/admin/clear", body={"model": options.model})
    return _show(options, answer, _clear_lines)


def _show(
    options: argparse.Namespace,
    answer: dict[str, Any],
    lines: Callable[[dict[str, Any]], list[str]],
) -> int:
    for line in [json_text(answer)] if options.json else lines(answer):
        print(line)
    return Exit.DONE


def _switch_lines(body: dict[str, Any]) -> list[str]:
    if not body["changed"]:
        return [f"{body['model']} is loaded already"]
    steps = [f"{step['seconds']:8.2f} s  {step['step']} {step['model']}" for step in body["steps"]]
    return [*steps, f"{body['seconds']:8.2f} s  {body['model']} is loaded"]


def _unload_lines(body: dict[str, Any]) -> list[str]:
    if not body["changed"]:
        return [f"nothing is loaded in group {body['group']}"]
    return [f"{body['previous']} is unloaded; group {body['group']} is free"]


def _cancel_lines(body: dict[str, Any]) -> list[str]:
    if not body["changed"]:
        return [f"there was no switch to end in group {body['group']}"]
    return [f"the switch of group {body['group']} is ended"]


def _drain_lines(body: dict[str, Any]) -> list[str]:
    if body["draining"]:
        return ["drained: nothing is under way, and /health says 503 until a restart or --off"]
    return ["requests are welcome" + ("" if body["changed"] else ", as before")]


def _reload_lines(body: dict[str, Any]) -> list[str]:
    lines = [
        f"{label} {', '.join(body[key])}"
        for key, label in (
            ("added", "added:"),
            ("removed", "removed:"),
            ("relaunch", "the engine is started anew for the next request:"),
            ("updated", "updated:"),
            ("config", "config.yml:"),
            ("restart", "not before a restart (systemctl restart llm-router):"),
        )
        if body[key]
    ]
    if body["keys"]:
        lines.append("API keys")
    return lines or ["nothing has changed"]


def _plan_lines(body: dict[str, Any]) -> list[str]:
    if not body["steps"]:
        return [f"{body['model']} is loaded already"]
    return [
        f"{step['step']} {step['model']} (within {step['deadline']:g} s{_rule(step)})"
        for step in body["steps"]
    ]


def _rule(step: dict[str, Any]) -> str:
    seconds = step.get("expected_seconds")
    return "" if seconds is None else f", as a rule {seconds:.2f} s"


def _clear_lines(body: dict[str, Any]) -> list[str]:
    if not body["changed"]:
        return [f"{body['model']} has no failures"]
    return [f"the failures of {body['model']} are forgotten"]
