"""The command ``llm-router``."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_router import __version__
from llm_router.config import ConfigError, Settings, load_settings

DEFAULT_CONFIG = Path("/etc/llm-router/config.yml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 not done, 2 wrong usage."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llm-router", description="One OpenAI-compatible endpoint for every model of a host."
    )
    parser.add_argument("--version", action="version", version=f"llm-router {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help=f"config.yml (default {DEFAULT_CONFIG})"
    )
    common.add_argument("--models", type=Path, help="a models.yml in place of the configured one")
    common.add_argument("--keys", type=Path, help="a keys.yml in place of the configured one")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, *parents: argparse.ArgumentParser) -> Any:
        sub = commands.add_parser(name, parents=[common, *parents], help=summary)
        sub.set_defaults(run=run)
        return sub

    command("check", _check, "say what is wrong with the configuration, if anything")
    command("serve", _serve, "run the router")
    command("helper", _helper, "run the root helper (systemd starts it)")
    activate = command("activate", _activate, "write what the engines' units read", as_json)
    which = activate.add_mutually_exclusive_group(required=True)
    which.add_argument("model", nargs="?", help="one model")
    which.add_argument("--all", action="store_true", help="every model")
    activate.add_argument("--check", action="store_true", help="say what would change, only")
    switch = command("switch", _switch, "have a model loaded, and wait for it", as_json)
    switch.add_argument("model")
    switch.add_argument("--timeout", type=float, help="how long to wait, in seconds")
    command("status", _status, "what is loaded, what runs, who waits", as_json)
    plan = command("plan", _plan, "what a request for a model would do now", as_json)
    plan.add_argument("model")
    logs = command("logs", _logs, "the last log lines of a model's unit", as_json)
    logs.add_argument("model")
    logs.add_argument("--lines", type=int, default=50)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(options.config, options.models, options.keys)


def _check(options: argparse.Namespace) -> int:
    settings = _settings(options)
    models, keys = len(settings.models), len(settings.keys)
    print(f"valid: {models} model{'s' * (models != 1)}, {keys} key{'s' * (keys != 1)}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from llm_router.serve import serve

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    # httpx says every request at INFO: the router's own line says more
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return serve(_settings(options))


def _helper(options: argparse.Namespace) -> int:
    from llm_router.helper.server import serve_helper
    from llm_router.units.base import UnitError

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(serve_helper(options.config))
    except UnitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _activate(options: argparse.Namespace) -> int:
    from llm_router.activation import run_activate
    from llm_router.engine_files import EngineFileError

    settings = _settings(options)
    if options.model is not None and options.model not in settings.models:
        known = ", ".join(sorted(settings.models))
        print(f"unknown model {options.model}; known models: {known}", file=sys.stderr)
        return 1
    names = None if options.all else [options.model]
    try:
        result = run_activate(settings, names, options.check)
    except EngineFileError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result))
    else:
        for file in result["files"]:
            print(("changed " if file["changed"] else "ok      ") + file["path"])
    return 0


def _switch(options: argparse.Namespace) -> int:
    call = {"model": options.model, "timeout": options.timeout}
    return _ask(options, "POST", "/admin/switch", body=call, show=_show_switch)


def _status(options: argparse.Namespace) -> int:
    return _ask(options, "GET", "/admin/status", show=_show_status)


def _plan(options: argparse.Namespace) -> int:
    return _ask(options, "GET", "/admin/plan", params={"model": options.model}, show=_show_plan)


def _logs(options: argparse.Namespace) -> int:
    params = {"model": options.model, "lines": options.lines}
    return _ask(
        options,
        "GET",
        "/admin/logs",
        params=params,
        show=lambda body: print(*body["lines"], sep="\n"),
    )


def _ask(
    options: argparse.Namespace,
    method: str,
    path: str,
    *,
    show: Any,
    params: dict[str, Any] | None = None,
    body: Any = None,
) -> int:
    """One call over the admin socket; an error is one sentence on stderr and 1."""
    import httpx

    socket = _settings(options).config.admin_socket
    transport = httpx.HTTPTransport(uds=socket)
    try:
        patience = httpx.Timeout(None)  # a switch has its own deadline
        with httpx.Client(
            transport=transport, base_url="http://router", timeout=patience
        ) as client:
            answer = client.request(method, path, params=params, json=body)
    except httpx.TransportError as error:
        hint = "see systemctl status llm-router; the socket is for root and the router's user"
        print(f"the router does not answer on {socket}: {error}; {hint}", file=sys.stderr)
        return 1
    result = answer.json()
    if answer.is_error:
        print(result["error"]["message"], file=sys.stderr)
        for line in result["error"].get("log_lines", ()):
            print(f"  {line}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


def _show_switch(body: dict[str, Any]) -> None:
    if not body["changed"]:
        print(f"{body['model']} is loaded already")
        return
    for step in body["steps"]:
        print(f"{step['seconds']:8.2f} s  {step['step']} {step['model']}")
    print(f"{body['seconds']:8.2f} s  {body['model']} is loaded")


def _show_plan(body: dict[str, Any]) -> None:
    if not body["steps"]:
        print(f"{body['model']} is loaded already")
    for step in body["steps"]:
        print(f"{step['step']} {step['model']} (within {step['deadline']:g} s)")


def _show_status(body: dict[str, Any]) -> None:
    width = max((len(name) for name in body["models"]), default=0)
    for name, model in body["models"].items():
        served = f"{model['in_flight']} served, {model['waiting']} waiting"
        print(f"{name:<{width}}  {model['state']:<8} {model['unit']}  {served}")
        if "failure" in model:
            print(f"{'':<{width}}  {model['failure']['message']}")
    for switch in body["switches"]:
        print(f"switching to {switch['model']}: {switch['step']}, {switch['seconds']:.0f} s")
