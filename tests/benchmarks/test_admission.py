"""The measurement of what limits cost: that it runs, and that all its calls open."""

import asyncio

import pytest

from benchmarks.admission import CALLERS, measured
from benchmarks.valkeys import valkey

pytestmark = pytest.mark.no_servers


def test_each_turn_has_a_cost_with_and_without_limits():
    with valkey(appendonly="yes") as url:
        costs = asyncio.run(measured(url, calls=2 * CALLERS, turns=2))

    assert {name: len(turns) for name, turns in costs.items()} == {"no limits": 2, "limits": 2}
    assert all(cost > 0 for turns in costs.values() for cost in turns)
