"""The command ``llm-router``.

What a command needs is imported when it runs: ``--help`` and a shell's completion must not wait
for libraries that only the service uses.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO, cast

from llm_router.cli.exits import Exit, Failed
from llm_router.cli.parser import parse
from llm_router.cli.plain import PrintableStream
from llm_router.json_codec import json_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, see `Exit`. Raises SystemExit for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show a character shows a question mark
            stream.reconfigure(errors="replace")
    streams = sys.stdout, sys.stderr
    # most of what is printed was chosen by others: an engine's log, a name, a path
    sys.stdout, sys.stderr = (cast(TextIO, PrintableStream(stream)) for stream in streams)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        sys.stdout, sys.stderr = streams


def _run(argv: Sequence[str]) -> int:
    options = parse(argv)
    module, _, name = options.run.partition(":")
    try:
        status = int(getattr(importlib.import_module(module), name)(options))
        sys.stdout.flush()
    except Failed as failed:
        return _report(failed, as_json=getattr(options, "json", False))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return Exit.BROKEN_PIPE
    except OSError as error:
        return _report(Failed(str(error)), as_json=getattr(options, "json", False))
    return status


def _report(failed: Failed, *, as_json: bool) -> int:
    try:
        print(failed, file=sys.stderr)
        for line in failed.log_lines:
            print(f"  {line}", file=sys.stderr)
        if as_json:
            print(json_text({"error": failed.error}))
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    return failed.status


def _forget_stdout() -> None:
    """Python flushes stdout once more when it ends, and would complain there."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
