"""What the books refused is kept where an operator finds it."""

from contextlib import closing

from billing.ledger.refused import STREAM, move_refused
from billing.ledger.writing import connect


def test_a_record_that_the_books_refused_is_moved_once(state, ledger):
    entry = state.xadd(STREAM, {"call": "c1", "reason": "the amount is not within the maximum", "r": b"\x93\x01"}).decode()
    with closing(connect()) as connection:
        while move_refused(connection, state):
            pass

        assert move_refused(connection, state) == 0

    found = ledger("SELECT raw, error FROM journal_quarantine WHERE stream = %s AND stream_id = %s", STREAM, entry)
    assert [(bytes(raw), "not within the maximum" in error) for raw, error in found] == [(b"\x93\x01", True)]
    assert state.xlen(STREAM) == 0
    state.delete(STREAM)  # for tests that look whether it is there
