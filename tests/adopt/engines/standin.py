"""Runs the stand-in of an engine in the place of this program."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

ENGINE = Path(__file__).resolve().parents[2] / "standin" / "engine.py"


def become(engine: str, *, name: str, port: int, key: str = "") -> NoReturn:
    """Serve ``name`` on ``port`` as ``engine`` would, after a second of loading.

    Tokens come slowly enough for a rate.
    """
    arguments = ["--engine", engine, "--name", name, "--port", str(port), "--load", "1"]
    arguments += ["--interval", "0.05"]
    if key:
        arguments += ["--api-key", key]
    os.execv(sys.executable, [sys.executable, "-S", "-E", str(ENGINE), *arguments])
