"""What the scheduler promises, held against a real router."""

from __future__ import annotations

import pytest

from bench.fairness import measure

from .conftest import Router


@pytest.mark.load
def test_alternating_clients_need_few_switches_and_none_waits_longer_than_is_promised(
    router: Router,
) -> None:
    result = measure(router)
    assert {outcome.kind for outcome in result.outcomes} == {"answered"}
    assert result.first_come == 80
    assert 2 * result.loads < result.first_come
    assert result.longest_wait <= result.bound
