"""Lives of a world full of faults (world.py). BOOKS_SEEDS=10000 runs that many; a failing seed is in the test's name."""

import os

import pytest

from tests.inference.books.world import simulate

SEEDS = int(os.environ.get("BOOKS_SEEDS", "100"))


@pytest.mark.no_servers
@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_number_agrees_whatever_dies(seed, server, valkey):
    simulate(seed, valkey, str(server.socket))
