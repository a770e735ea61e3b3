"""A stand-in engine for what no real one shows on demand: exact timing, and faults.

It speaks the contract of the engine that ``--engine`` names, or a plain OpenAI API. What it can do,
and where each behaviour was seen, is in README.md beside this file. Standard library only, and no
asyncio, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import importlib
import sys

from options import ENGINES, parse


def main() -> None:
    options = parse(sys.argv[1:])
    module, name = ENGINES[options.engine]
    engine = getattr(importlib.import_module(module), name)  # only the one that is asked for
    engine(options).run()


if __name__ == "__main__":
    main()
