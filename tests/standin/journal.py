"""What the stand-in writes down for the test that looks on."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from options import Options


class Journal:
    """Appends whole lines, so that several stand-ins may share a file."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def event(self, what: str) -> None:
        """A start or a stop."""
        self._append(self._options.events, f"{time.monotonic():.6f} {what} {self._options.name}")
        self.note(what, context=self._options.context)

    def chat(self, body: Any) -> None:
        """A chat request's body."""
        self._append(self._options.record, json.dumps(body))

    def note(self, what: str, **more: Any) -> None:
        """Anything, with its time on the monotonic clock and the process that says it."""
        line = {"time": time.monotonic(), "what": what, "name": self._options.name}
        line |= {"pid": os.getpid(), **more}
        self._append(self._options.journal, json.dumps(line))

    def _append(self, path: str | None, line: str) -> None:
        if path is None:
            return
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode() + b"\n")
        finally:
            os.close(file)
