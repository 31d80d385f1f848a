"""Lives of a world full of faults (world.py). BOOKS_SEEDS=10000 runs that many; a failing seed is in the test's name.

`python -m tests.inference.books.simulation` runs them without pytest.
"""

import os
from contextlib import closing

import pytest

from billing.ledger.writing import connect
from tests.inference.books.mutants import MUTANTS, broken
from tests.inference.books.world import simulate

SEEDS = int(os.environ.get("BOOKS_SEEDS", "150"))


@pytest.fixture
def connection(embedded):
    with closing(connect()) as connection:
        yield connection


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_number_agrees_whatever_dies(seed, server, valkey, connection):
    simulate(seed, valkey, str(server.socket), connection)


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_broken_is_found(name, server, valkey, connection):
    with broken(MUTANTS[name]):
        assert any(fails(seed, server, valkey, connection) for seed in range(SEEDS))


def fails(seed, server, valkey, connection) -> bool:
    try:
        simulate(seed, valkey, str(server.socket), connection)
    except Exception:  # whatever a broken part breaks
        connection.rollback()
        return True
    return False


def test_a_seed_replays(server, valkey, connection):
    """The same calls are told the same, whatever the clock says."""
    first, second = (simulate(7, valkey, str(server.socket), connection) for _ in range(2))

    assert [call.told for call in first.calls.values()] == [call.told for call in second.calls.values()]
    assert first.verdicts == second.verdicts
