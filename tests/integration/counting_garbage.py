"""A router that looks for garbage only when SIGUSR2 comes: ``python -m … serve …``.

It writes how many objects it found to the file that TURNS names, a line each time.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

from llm_router import garbage
from llm_router.cli import main


def count(*_: object) -> None:
    """What references alone did not free."""
    found = gc.collect()
    with Path(os.environ["TURNS"]).open("a", encoding="ascii") as file:
        file.write(f"{found}\n")


if __name__ == "__main__":
    garbage.EVERY = 3600.0
    gc.disable()
    signal.signal(signal.SIGUSR2, count)
    sys.exit(main())
