"""A logging handler that never waits for who reads the log."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque

AT_ONCE = select.PIPE_BUF
"""Bytes that a descriptor which says it can be written to takes without waiting (poll(2))."""
KEPT = 10_000
"""Lines that are kept while nobody reads them; further ones are counted and lost."""
LAST_WORDS = 2.0
"""Seconds that lines which are kept have to get out when the program ends."""


class LineWriter(logging.Handler):
    """Writes each record as a line to ``descriptor``, which stays the caller's.

    A line goes out at once where that takes no time. Where it would (a journal that is being
    rotated, a pager that was left open), it is kept, and a thread writes what is kept.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._kept: deque[bytes] = deque()
        self._lost = 0
        self._thread: threading.Thread | None = None
        # not the handler's own: `logging.shutdown` holds that while the thread is waited for
        self._alone = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write or keep a record."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            with self._alone:
                if self._thread is None and len(line) <= AT_ONCE and self._ready():
                    self._write(line)
                else:
                    self._keep(line)
        except Exception:  # noqa: BLE001 - a log that cannot be written must not end what it tells of
            self.handleError(record)

    def _ready(self) -> bool:
        ready = self._poll.poll(0)
        return bool(ready) and ready[0][1] & select.POLLOUT != 0

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._descriptor, line) :]

    def _keep(self, line: bytes) -> None:
        if len(self._kept) >= KEPT:
            self._lost += 1
            return
        self._kept.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
            self._thread.start()

    def _drain(self) -> None:
        """Write what is kept, however long that takes; the thread ends when nothing is left."""
        while (line := self._next()) is not None:
            try:
                self._write(line)
            except OSError:
                with self._alone:
                    self._kept.clear()

    def _next(self) -> bytes | None:
        with self._alone:
            if self._kept:
                return self._kept.popleft()
            if self._lost:
                record = logging.makeLogRecord(
                    {
                        "name": __name__,
                        "levelno": logging.WARNING,
                        "levelname": "WARNING",
                        "msg": f"{self._lost} lines of the log were lost: nobody read them",
                    }
                )
                self._lost = 0
                return (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            self._thread = None
            return None

    def flush(self) -> None:
        """Give what is kept a moment to get out; `logging.shutdown` calls it at the end."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(LAST_WORDS)
