"""The soak of strangers, shorter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import ROOT


@pytest.mark.load
def test_strangers_cost_others_nothing() -> None:
    """Memory, turns of the event loop and streams stay within the soak's bounds. What else runs on
    the machine is in the time of a health check, so that has a wide bound here."""
    soak = [sys.executable, "-m", "tests.soak.strangers", "--seconds", "15", "--max-health", "1"]
    done = subprocess.run(soak, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
