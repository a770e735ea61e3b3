"""Where the log goes: to stderr, which under systemd is the journal."""

from __future__ import annotations

import logging
import os
import sys

from llm_router.logs.lines import LogFormat, formatter
from llm_router.logs.writer import LineWriter


def log_to_stderr(kind: LogFormat = "logfmt") -> None:
    """Have everything that is logged written to stderr, as this process's only log."""
    # who called is in no line, nor which thread: asking for it would cost more than the line
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "logAsyncioTasks", False)  # noqa: B010 - Python 3.12 has it, 3.10 has not
    root = logging.getLogger()
    root.handlers[:] = [LineWriter(sys.stderr.fileno())]
    root.setLevel(logging.INFO)
    # httpx says every request at INFO: the router's own line says more
    logging.getLogger("httpx").setLevel(logging.WARNING)
    use_format(kind)


def use_format(kind: LogFormat) -> None:
    """Go on with lines of this kind."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineWriter):
            handler.setFormatter(formatter(kind, journal=_is_journal(sys.stderr.fileno())))


def _is_journal(descriptor: int) -> bool:
    """Whether journald reads it, by systemd.exec(5): ``JOURNAL_STREAM`` is DEVICE:INODE."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
