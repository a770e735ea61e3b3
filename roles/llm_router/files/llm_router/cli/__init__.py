"""The command ``llm-router``.

What a command needs is imported when it runs: ``--help`` and a shell's completion must not wait
for libraries that only the service uses.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from collections.abc import Sequence

from llm_router.cli.exits import Exit, Failed
from llm_router.cli.parser import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, see `Exit`. Raises SystemExit for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show a character shows a question mark
            stream.reconfigure(errors="replace")
    options = parse(sys.argv[1:] if argv is None else argv)
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
            print(json.dumps({"error": failed.error}))
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    return failed.status


def _forget_stdout() -> None:
    """Python flushes stdout once more when it ends, and would complain there."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
