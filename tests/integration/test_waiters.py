"""Ten thousand who wait for one load; `make bench-waiters` prints the figures."""

from __future__ import annotations

import pytest

from bench.facts import raise_file_limit
from bench.waiters import CLIENTS, LOAD, LONGEST_STALL, MOST_MB, measure, most_clients

from .conftest import Router


@pytest.mark.load
def test_all_who_wait_for_one_load_are_served_in_little_memory_and_hold_up_nobody(
    router: Router,
) -> None:
    clients = min(CLIENTS, most_clients(raise_file_limit(2 * CLIENTS + 1000)))
    assert clients > 0.9 * CLIENTS
    result = measure(router, clients, LOAD)
    assert [outcome.kind for outcome in result.outcomes] == ["answered"] * clients
    assert result.peak < MOST_MB
    # on the processor: what other processes of a test machine take is not the router's
    assert max(turn["cpu"] for turn in result.turns) < LONGEST_STALL
