"""Many who wait for one load; `make bench-waiters` has ten thousand of them, and the stalls."""

from __future__ import annotations

import pytest

from bench.waiters import LONGEST_STALL, measure

from .conftest import Router

KB_A_REQUEST = 40
"""Ten thousand and the router itself are to stay under 400 MB: 33 each, and what varies."""


@pytest.mark.load
def test_all_who_wait_for_one_load_are_served_and_take_little_memory(router: Router) -> None:
    clients = 2000
    result = measure(router, clients, load=3.0)
    assert [outcome.kind for outcome in result.outcomes] == ["answered"] * clients
    assert (result.peak - result.idle) * 1000 / clients < KB_A_REQUEST
    # on the processor: what other processes of a test machine take is not the router's
    assert max(turn["cpu"] for turn in result.turns) < LONGEST_STALL
