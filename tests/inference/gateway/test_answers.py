"""Answers kept for an Idempotency-Key, when the database or the keys do not give them."""

import asyncio
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from inference.gateway.answers import Answers
from saas.lib.errors import Unavailable

pytestmark = pytest.mark.no_servers


class Failing:
    """An AnswerStore that gives nothing."""

    def __init__(self, error):
        self.error = error

    def is_slow(self, packed):
        return False

    def seal(self, call, packed):
        raise self.error

    def unseal(self, call, stored):
        raise self.error


async def unsealed(error):
    answers, outcome = Answers(Failing(error)), asyncio.get_running_loop().create_future()
    answers.unseal(SimpleNamespace(id="4711"), b"stored", lambda call, answer: outcome.set_result(answer))
    found = await outcome
    answers.close()
    return found


async def test_a_replay_without_the_database_is_refused_for_now_and_is_one_line_of_the_log(caplog):
    outcome = await unsealed(OperationalError("connection failed\n\tIs the server running?"))

    assert isinstance(outcome, Unavailable)
    (record,) = caplog.records
    assert record.getMessage() == "the answer of call 4711 could not be read: OperationalError: connection failed"
    assert record.exc_info is None


async def test_a_stored_answer_that_does_not_open_is_told_with_its_traceback(caplog):
    outcome = await unsealed(ValueError("not ours"))

    assert isinstance(outcome, Unavailable)
    assert caplog.records[0].exc_info is not None


async def test_an_answer_that_cannot_be_stored_without_the_database_is_one_line_too(caplog):
    answers, stored = Answers(Failing(OperationalError("gone"))), []
    answers.seal(SimpleNamespace(id="4711"), None, lambda call, answer, sealed: stored.append(sealed))
    answers.close()

    assert isinstance(stored[0], Unavailable)
    (record,) = caplog.records
    assert record.getMessage() == "the answer of call 4711 could not be stored: OperationalError: gone"
    assert record.exc_info is None
