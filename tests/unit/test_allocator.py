"""Memory that a burst of large bodies took is given back to the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

BURST = """
import sys
from pathlib import Path
from llm_router.allocator import map_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

mapped = map_large_blocks()
before, kept = resident(), []
for _ in range(5):
    bodies = [bytearray() for _ in range(40)]
    for _ in range(32):
        for body in bodies:
            body += b"x" * 65536
        kept.append(bytearray(3000))  # what is between them, and stays
    kept += [bytes(body[:100_000]) for body in bodies[:2]]
    most = resident() - before
    del body, bodies
print(int(mapped), most, resident() - before)
"""


def test_a_burst_of_bodies_leaves_no_memory_behind() -> None:
    said = subprocess.run(
        [sys.executable, "-c", BURST],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mapped, most, left = map(int, said.split())
    if not mapped:
        pytest.skip("the C library has no mallopt")
    assert most > 80_000_000
    assert left < 20_000_000
