"""A terminal's screen that is drawn again and again, in place, and given back as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any, TextIO

from typing_extensions import Self

from llm_router.cli.view import cut

# xterm's alternate screen: a resize or a long line cannot spoil what was there before
_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """A context manager. Ctrl-Z and SIGTERM give the terminal back too."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._handlers: dict[int, Any] = {}
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        for number, handler in (
            (signal.SIGTSTP, self._suspend),
            (signal.SIGTERM, self._terminate),
            (signal.SIGHUP, self._terminate),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._write(_ENTER)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._write(_LEAVE)
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def size(self) -> tuple[int, int]:
        """Columns and rows, now."""
        # the terminal's own word, which COLUMNS and LINES in an environment may be older than
        size = os.get_terminal_size(self._out.fileno())
        return size.columns or 80, size.lines or 24

    def show(self, lines: Sequence[str]) -> None:
        """Draw ``lines`` from the top. The first is cut to the width, the others fit already."""
        width, rows = self.size()
        self._lines = [cut(lines[0], width), *lines[1:rows]] if lines else []
        self._draw()

    def _draw(self) -> None:
        body = f"{_REST_OF_LINE}\n".join(self._lines)
        self._write(f"{_HOME}{body}{_REST_OF_LINE}{_REST_OF_SCREEN}")

    def _write(self, text: str) -> None:
        # not through the stream's buffer, which a signal's handler must not enter a second time
        data = text.encode(self._out.encoding, "replace")
        while data:
            data = data[os.write(self._out.fileno(), data) :]

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._write(_LEAVE)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        # here again after SIGCONT
        signal.signal(signal.SIGTSTP, self._suspend)
        self._write(_ENTER)
        self._draw()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)
