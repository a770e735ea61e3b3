"""The scheduler in simulated time: nobody is lost, and nobody waits longer than is promised.

``ROUNDHOUSE_RUNS`` says how many runs; `make test-properties` asks for 10,000.
"""

from __future__ import annotations

import os

import pytest

from .scheduler_simulation import Simulation

RUNS = int(os.environ.get("ROUNDHOUSE_RUNS", 300))
PARTS = 10


@pytest.mark.parametrize("orderly", [True, False], ids=["bounded", "operated"])
@pytest.mark.parametrize("part", range(PARTS))
def test_nobody_is_lost_and_nobody_waits_too_long(part: int, orderly: bool) -> None:
    served = switches = 0
    for seed in range(part, RUNS, PARTS):
        simulation = Simulation(seed, orderly=orderly)
        try:
            simulation.run()
        except Exception as error:
            error.add_note(f"Simulation({seed}, orderly={orderly})")
            raise
        served += simulation.served
        switches += simulation.switches
    # runs in which nothing happens would prove nothing
    assert served > RUNS / PARTS
    assert switches > RUNS / PARTS
