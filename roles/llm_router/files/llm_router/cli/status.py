"""``llm-router status``: once, or again and again."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from llm_router.cli.admin import client_of
from llm_router.cli.client import AdminClient
from llm_router.cli.exits import Exit, Failed
from llm_router.cli.screen import Screen
from llm_router.cli.view import no_paint, paint, status_lines
from llm_router.json_codec import json_text

PATIENCE = 5.0
"""Seconds that one look may take."""


def status(options: argparse.Namespace) -> int:
    """What is loaded, what runs, who waits. Raises `Failed`."""
    client = client_of(options)
    if options.watch or (not options.once and not options.json and _is_terminal()):
        if options.json or not _is_terminal():
            return _repeat(client, options)
        return watch(client, Screen(sys.stdout), options.interval)
    for line in _once(client, as_json=options.json):
        print(line)
    return Exit.DONE


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _once(client: AdminClient, *, as_json: bool) -> list[str]:
    answer = client.call("GET", "/admin/status", timeout=PATIENCE)
    if as_json:
        return [json_text(answer)]
    return status_lines(answer, _requests(client))


def _repeat(client: AdminClient, options: argparse.Namespace) -> int:
    """For a pipe or a file: each look as a JSON line, or as lines with a blank one behind them."""
    lines = _once(client, as_json=options.json)
    while True:
        print(*lines, *([] if options.json else [""]), sep="\n", flush=True)
        time.sleep(options.interval)
        try:
            lines = _once(client, as_json=options.json)
        except Failed as failed:
            if failed.status != Exit.UNREACHABLE:
                raise
            lines = [json_text({"error": failed.error}) if options.json else str(failed)]


def watch(client: AdminClient, screen: Screen, interval: float) -> int:
    """The live view, until Ctrl-C. Raises `Failed` when the router does not answer at once.

    A router that answered and stops doing so is restarting: then the last look stays, with a word.
    """
    colour = no_paint if "NO_COLOR" in os.environ else paint
    current = _look(client)
    lost_since: float | None = None
    try:
        with screen:
            while True:
                width, rows = screen.size()
                lines = status_lines(*current, width=width, rows=rows - 3, paint=colour)
                screen.show([_heading(client.path, lost_since), "", *lines])
                time.sleep(interval)
                try:
                    current = _look(client)
                    lost_since = None
                except Failed as failed:
                    if failed.status != Exit.UNREACHABLE:
                        raise
                    lost_since = lost_since or time.monotonic()
    except KeyboardInterrupt:
        # the way out of it: nothing was left undone
        return Exit.DONE


def _look(client: AdminClient) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answer = client.call("GET", "/admin/status", timeout=PATIENCE)
    return answer, _requests(client)


def _requests(client: AdminClient) -> list[dict[str, Any]]:
    answer = client.call("GET", "/admin/requests", timeout=PATIENCE)
    return list(answer["requests"])


def _heading(path: str, lost_since: float | None) -> str:
    now = time.strftime("%H:%M:%S")
    if lost_since is None:
        return f"{now}  llm-router on {path} (Ctrl-C ends)"
    seconds = time.monotonic() - lost_since
    return f"{now}  the router does not answer, {seconds:.0f} s; below is what it said last"
