"""The router that a soak runs against, and what a soak's command does with its verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.integration.conftest import Router

SHOWN = 5000
"""Bytes at the end of the router's log that are printed when something is wrong."""


def judge(soak: Callable[[Router], bool]) -> int:
    """Run a soak, which says whether all bounds hold; the exit status of its command.

    Nothing is left of its router and its engines. Unless all is well, the end of the router's log
    is printed.
    """
    with tempfile.TemporaryDirectory() as directory:
        router = Router(Path(directory))
        well = False
        try:
            well = soak(router)
        finally:
            router.end(may_be_gone=True)
            log = router.dir / "router.log"
            if not well and log.exists():
                print(log.read_text(errors="replace")[-SHOWN:])
    return 0 if well else 1
