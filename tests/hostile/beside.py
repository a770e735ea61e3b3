"""Hostile engines, and good clients beside them, for a test and for a soak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.conftest import ROOT, Router, free_port

GOOD = "good"
"""The model whose streams must not feel anything."""
MAX_LATE = 0.05
"""Seconds, 99 % of tokens of other models, beyond twice what the same engine's tokens are late
without the router: there is a process more on their way."""


def good_engine(router: Router) -> dict[str, Any]:
    """Its entry in models.yml."""
    return {**router.standin(GOOD, interval=0.02, tokens=100), "preload": True}


def hostile_engine(router: Router, name: str) -> dict[str, Any]:
    """An entry in models.yml; each has a device group of its own."""
    port = free_port()
    # with a lower priority: it is the router that is measured, not the kernel's scheduler
    command = ["nice", "-n", "10", sys.executable, str(Path(__file__).with_name("engine.py"))]
    command += ["--port", str(port), "--name", name]
    command += ["--record", str(router.dir / f"{name}.jsonl")]
    entry = {"backend": "command", "port": port, "command": command}
    return {**entry, "upstream_paths": ["POST /script"], "group": name, "preload": True}


def good_clients(router: Router, engine_port: int) -> subprocess.Popen[str]:
    """See `tests.hostile.watch`; ``communicate`` ends it and has what it saw."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.hostile.watch"),
            *(str(router.port), str(engine_port), GOOD),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
