"""The streaming tree against the definition."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.proof.merkle import Tree

pytestmark = pytest.mark.no_servers


def by_definition(leaves):
    """RFC 9162, 2.1.1: MTH of hashed leaves."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@given(st.integers(0, 300))
def test_the_root_is_that_of_the_definition(size):
    leaves, tree = [hashlib.sha256(str(number).encode()).digest() for number in range(size)], Tree()
    for leaf in leaves:
        tree.add(leaf)

    assert tree.root() == by_definition(leaves)
    assert len(tree._peaks) <= 9  # memory: one for each power of two
