"""Answers kept for an Idempotency-Key, when the database or the keys do not give them."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from inference.gateway import threads
from inference.gateway.answers import Answers, most_packed, pack_answer
from inference.gateway.call import Rendered
from saas.lib.errors import ConcurrencyLimited, LimitReached, Unavailable
from tests.waiting import PATIENCE, until_async

pytestmark = pytest.mark.no_servers
ANSWER = Rendered(200, [], b"")


class Failing:
    """An AnswerStore that gives nothing."""

    def __init__(self, error):
        self.error = error

    def is_slow(self, size):
        return False

    def is_apart(self, stored):
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
    answers.seal(SimpleNamespace(id="4711"), ANSWER, lambda call, answer, sealed: stored.append(sealed))
    answers.close()

    assert isinstance(stored[0], Unavailable)
    (record,) = caplog.records
    assert record.getMessage() == "the answer of call 4711 could not be stored: OperationalError: gone"
    assert record.exc_info is None


class Held(Failing):
    """A store of large answers that takes its time; `most` is how many it ever worked on at once."""

    def __init__(self):
        self.go_on, self.now, self.most, self.taken = threading.Event(), 0, 0, []

    def is_slow(self, size):
        return True

    def is_apart(self, stored):
        return True

    def seal(self, call, packed):
        self.now += 1
        self.most = max(self.most, self.now)
        assert self.go_on.wait(PATIENCE)
        self.now -= 1
        self.taken.append(call.id)
        return b"row"

    def unseal(self, call, stored):
        self.seal(call, stored)
        return pack_answer(Rendered(200, [], b"as before"))


def call_of(organization, number):
    return SimpleNamespace(id=f"{organization}-{number}", key=SimpleNamespace(organization=organization))


async def test_large_answers_are_stored_and_read_one_at_a_time_and_organizations_take_turns():
    store, found = Held(), []
    answers = Answers(store)
    for number in range(3):
        answers.seal(call_of("alice", number), Rendered(200, [], b"y"), lambda call, answer, sealed: found.append(sealed))
    answers.seal(call_of("bob", 0), Rendered(200, [], b"y"), lambda call, answer, sealed: found.append(sealed))
    answers.unseal(call_of("charlie", 0), b"row", lambda call, answer: found.append(answer.body))
    store.go_on.set()
    await until_async(lambda: len(found) == 5)
    answers.close()

    assert store.most == 1
    assert store.taken == ["alice-0", "alice-1", "bob-0", "charlie-0", "alice-2"]
    assert sorted(found) == [b"as before", b"row", b"row", b"row", b"row"]


async def test_more_large_answers_than_an_organization_s_share_are_refused_and_not_packed(monkeypatch):
    monkeypatch.setattr(threads, "SHARE_BYTES", 100)
    store, found = Held(), {}
    answers = Answers(store)
    for number in range(2):
        answers.seal(
            call_of("alice", number), Rendered(200, [], b"y" * 90), lambda call, _, sealed: found.update({call.id: sealed})
        )
    assert isinstance(found["alice-1"], ConcurrencyLimited)
    store.go_on.set()
    await until_async(lambda: found.get("alice-0") == b"row")
    answers.close()

    assert store.taken == ["alice-0"]


async def test_a_refusal_of_an_answer_does_not_hold_it():
    answers, stored = Answers(Failing(LimitReached("full"))), []
    answers.seal(SimpleNamespace(id="4711"), ANSWER, lambda call, answer, sealed: stored.append(sealed))
    answers.close()

    assert stored[0].__traceback__ is None


@pytest.mark.parametrize("size", [0, 31, 255, 65_535, 65_536, 1 << 20])
def test_an_answer_is_never_larger_packed_than_expected(size):
    answer = Rendered(503, [(b"content-type", b"x" * size), (b"a", b"")] * 20, b"y" * size)

    assert len(pack_answer(answer)) <= most_packed(answer)
