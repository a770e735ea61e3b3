"""How a command ends: its exit status, and the one error that all commands raise."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit statuses; docs/cli.md and ``--help`` explain the same ones."""

    DONE = 0
    NOT_DONE = 1
    USAGE = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    PORT_TAKEN = 5
    CHECK_FAILED = 6
    NOT_CHECKED = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXPLAINED = {
    Exit.DONE: "done",
    Exit.NOT_DONE: "not done; stderr says why",
    Exit.USAGE: "wrong usage",
    Exit.UNREACHABLE: "the router does not answer on its admin socket",
    Exit.TIMEOUT: "not done within --timeout; what was begun goes on",
    Exit.PORT_TAKEN: "serve: another process has the router's port",
    Exit.CHECK_FAILED: "qualify: at least one check failed; the report says which",
    Exit.NOT_CHECKED: "qualify: the checks could not be made, or no model was tried",
    Exit.INTERRUPTED: "ended by Ctrl-C (the live view: 0)",
    Exit.BROKEN_PIPE: "whoever read the output is gone",
}


class Failed(Exception):
    """The command is not done.

    The message is for a person, one line for each thing that is wrong. ``error`` is what ``--json``
    prints under that name, besides the message; ``log_lines`` are an engine's last ones.
    """

    def __init__(
        self,
        message: str,
        status: Exit = Exit.NOT_DONE,
        error: dict[str, Any] | None = None,
        log_lines: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, **(error or {})}
        self.log_lines = log_lines or []
