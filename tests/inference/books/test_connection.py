"""What the books do when their server, or the way to it, is in trouble."""

import asyncio
import logging
import signal

import pytest
import pytest_asyncio

from inference.books import accounts
from inference.books.client import Books
from inference.books.reaper import Reaper
from inference.books.scripts import BEAT, BOOKS, FULL, JOURNAL, SESSION, open_key
from saas.lib.valkey import Connection
from tests.inference.books.calls import ALICE, Asked, charged, open_entries, records
from tests.waiting import until_async

pytestmark = pytest.mark.no_servers


class Wire:
    """A connection whose commands can be held back, as in a slow network, and sent after its owner has given it up."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.is_holding, self.held, self.waiting = connection, False, [], []

    def send(self, done, *command):
        if self.is_holding:
            self.held.append(command)
            self.waiting.append(done)
        else:
            self.connection.send(done, *command)

    def close(self) -> None:
        self.connection.close()

    async def deliver(self) -> list:
        return [await self.connection.call(*command) for command in self.held]


class Road:
    """Dials real connections, and shows them as wires; `lose` makes the books believe that the last one is lost."""

    def __init__(self, url: str) -> None:
        self.url, self.wires, self.tasks = url, [], []
        self.on_lost = None

    def dial(self, on_connected, on_failed, on_lost) -> None:
        async def connect() -> None:
            self.wires.append(Wire(await Connection.connect(self.url)))
            self.on_lost = on_lost
            on_connected(self.wires[-1])

        self.tasks.append(asyncio.create_task(connect()))

    def lose(self) -> None:
        for done in self.wires[-1].waiting:
            done(ConnectionError())
        self.on_lost()


@pytest_asyncio.fixture
async def road(server):
    road = Road(server.url)
    yield road
    for wire in road.wires:
        wire.close()
    await asyncio.sleep(0.01)


async def test_what_an_old_socket_still_holds_writes_nothing_after_the_adoption(make_books, road, account, valkey):
    valkey.script_load(BEAT.source)  # a first heartbeat, if it is held, could not have it loaded
    books = await make_books(dial=road.dial)
    for _ in range(20):
        before = await _open_some(books, 3)
        late = [Asked(most=5) for _ in range(40)]
        wire = road.wires[-1]
        wire.is_holding = True
        for call in late:
            books.open(call.open_call)
        await until_async(lambda wire=wire: wire.held)
        road.lose()
        await until_async(lambda: books.is_connected)
        for call in late:
            books.undo(call.open_call)

        replies = await wire.deliver()  # a heartbeat's is a list
        assert [reply[0] if isinstance(reply, list) else reply for reply in replies] == [0] * len(wire.held)

        for call in before:
            assert await call.undo(books) == "closed"
    await until_async(lambda: open_entries(valkey) == 0)
    assert account() == {}


async def _open_some(books: Books, n: int) -> list[Asked]:
    calls = [Asked(most=5) for _ in range(n)]
    for call in calls:
        assert await call.open(books) == "open"
    return calls


async def test_unacknowledged_opens_and_closes_are_sent_again_and_count_once(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    [ended] = await _open_some(books, 1)
    opening, keyed = Asked(most=5), Asked(most=5, claim=b"a")
    await keyed.open(books)
    await _reply_is_lost(books, road, lambda: (books.open(opening.open_call), _close(books, ended), _close(books, keyed)))

    await until_async(lambda: opening.opened and ended.closed and keyed.closed)

    assert (opening.opened, ended.closed, keyed.closed) == (["open"], ["closed"], ["done"])
    assert account() == charged(3, 15)
    assert sorted(r.call for r in records(valkey)) == sorted([ended.id, keyed.id])


def _close(books: Books, call: Asked) -> None:
    books.close(call.open_call, call.record, b"answer" if call.open_call.claim else None, call.on_close)


async def _reply_is_lost(books: Books, road: Road, act) -> None:
    """What `act` asks for is written, and the connection lost before the reply."""
    wire = road.wires[-1]
    wire.is_holding = True
    act()
    await until_async(lambda: any(BOOKS.sha in command for command in wire.held))
    await wire.deliver()
    road.lose()


async def test_a_call_that_fails_while_its_open_is_in_doubt_is_taken_back(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    call = Asked(most=5)
    await _reply_is_lost(books, road, lambda: books.open(call.open_call))
    books.undo(call.open_call, call.on_close)
    await call.hear()

    assert (call.opened, call.closed) == ([], ["closed"])
    assert open_entries(valkey) == 0
    assert account() == {}


async def test_a_call_that_fails_in_the_round_that_sends_its_open_again_is_taken_back(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    call, other = Asked(most=5), Asked()
    await other.open(books)
    await _reply_is_lost(books, road, lambda: books.open(call.open_call))
    registered = books._on_registered

    def and_fail(*what) -> None:
        registered(*what)
        books.undo(call.open_call, call.on_close)

    books._on_registered = and_fail
    await call.hear()

    assert call.closed == ["closed"]
    assert open_entries(valkey) == 1
    assert account() == charged(1, 0)


async def test_an_open_in_doubt_whose_session_is_then_gone_is_lost_and_not_opened_twice(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    call = Asked(most=5)
    await _reply_is_lost(books, road, lambda: books.open(call.open_call))
    registered = books._on_registered

    def and_lose_it_all(*what) -> None:
        books._on_registered = registered
        registered(*what)
        valkey.delete(open_key(books._session))  # as a reaper does
        road.lose()

    books._on_registered = and_lose_it_all
    await call.hear()

    assert await Asked().open(books) == "open"
    assert call.opened == ["lost"]
    assert open_entries(valkey) == 1


async def test_the_late_reply_to_a_script_of_an_earlier_session_is_nobody_s(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    wire, call, next_call = road.wires[-1], Asked(), Asked()
    send = wire.send

    def hold_books(done, *command):
        if BOOKS.sha in command and not wire.held:
            wire.held.append(command)
            wire.waiting.append(done)
        else:
            send(done, *command)

    wire.send = hold_books
    books.open(call.open_call)
    await until_async(lambda: wire.held)
    await _reap_empty(valkey, books._session)
    await call.hear()
    assert call.opened == ["lost"]
    assert await next_call.open(books) == "open"

    session = books._session
    wire.waiting[0](*await wire.deliver())

    assert books._session == session
    assert await next_call.close(books) == "closed"


async def _reap_empty(valkey, session: str) -> None:
    reaper = Reaper(valkey)
    assert reaper.take(session, valkey.hget(open_key(session), "beat"))
    reaper.step()


def test_a_session_of_another_line_is_not_adopted(valkey):
    SESSION.run_sync(valkey, [open_key("late")], ["", "late"])

    found, _, _ = SESSION.run_sync(
        valkey, [open_key("new"), open_key("gone"), open_key("late")], ["gone", "new", "gone", "late"]
    )

    assert found == 0
    assert valkey.smembers("sessions") == {b"new"}
    assert valkey.hget(open_key("new"), "line") == b"new"
    assert not valkey.exists(open_key("late"))


async def test_calls_whose_session_was_reaped_are_lost(make_books, account, valkey):
    books = await make_books()
    [waiting, ended] = await _open_some(books, 2)
    keyed = Asked(claim=b"a", most=5)
    await keyed.open(books)
    await _reap(valkey)
    await until_async(lambda: waiting.opened[-1] == "lost")

    assert (await ended.close(books), await keyed.close(books, stored=b"x")) == ("gone", "gone")
    assert account() == {}
    assert {(r.kind, r.nano) for r in records(valkey)} == {("reversed", 0)}
    assert await Asked(claim=b"a").open(books) == "open"


async def _reap(valkey) -> None:
    """As if all hearts had stood still for long."""
    times = iter([0.0, 0.0, 0.9, 0.9, 1.8, 1.8, 2.7, 2.7, 3.1, 3.1])
    reaper = Reaper(valkey, clock=lambda: next(times))
    for _ in range(4):
        reaper.step()
    beats = {key: valkey.hget(key, "beat") for key in valkey.keys("open:*")}
    for session, seen in list(reaper._seen.items()):
        reaper._seen[session] = seen._replace(beat=beats[b"open:" + session], at=0.0)
    assert reaper.step() > 0


async def test_an_outcome_that_was_stored_before_its_session_was_lost_is_found_in_its_claim(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    stored, unheard, other = Asked(claim=b"a"), Asked(claim=b"b"), Asked()
    for call in (stored, unheard, other):
        await call.open(books)
    await _reply_is_lost(books, road, lambda: _close(books, stored))
    await _reap(valkey)
    await until_async(lambda: stored.closed and other.opened[-1] == "lost")

    assert stored.closed == ["done"]
    assert {(r.call, r.kind) for r in records(valkey)} == {
        (stored.id, "usage"), (unheard.id, "reversed"), (other.id, "reversed"),
    }  # fmt: skip


async def test_a_late_registration_does_not_take_the_place_of_the_session_with_the_calls(make_books, road, account, valkey):
    books = await make_books(dial=road.dial)
    [call] = await _open_some(books, 1)
    first = books._session
    await _lose_registration(books, road)  # never heard, until later
    held = road.wires[-1].held
    await _lose_registration(books, road, is_heard=True)
    await road.wires[0].connection.call(*held[0])  # makes an empty session that this gateway knows as a candidate
    assert valkey.scard("sessions") == 2
    road.wires[-1].is_holding = False

    road.lose()
    await until_async(lambda: books.is_connected and books._session != first)

    assert await call.close(books) == "closed"
    assert valkey.scard("sessions") == 1
    assert len(records(valkey)) == 1


async def _lose_registration(books: Books, road: Road, *, is_heard: bool = False) -> None:
    """Lose the connection, and the reply to the next registration too."""
    count = len(road.wires)
    dial = books._dial

    def hold(on_connected, on_failed, on_lost) -> None:
        def held(wire) -> None:
            wire.is_holding = True
            on_connected(wire)

        dial(held, on_failed, on_lost)

    books._dial = hold
    road.lose()
    await until_async(lambda: len(road.wires) > count and road.wires[-1].held)
    books._dial = dial
    if is_heard:
        await road.wires[-1].deliver()


async def test_a_killed_server_comes_back_and_no_call_is_lost(make_books, server, account, valkey, caplog):
    caplog.set_level(logging.CRITICAL)
    books = await make_books()
    [call] = await _open_some(books, 1)

    server.kill()
    await until_async(lambda: not books.is_connected)
    waiting, left = Asked(most=5), Asked()
    books.open(waiting.open_call)
    books.open(left.open_call)
    books.undo(left.open_call)
    await asyncio.to_thread(server.start)
    await until_async(lambda: waiting.opened)

    assert await call.close(books) == "closed"
    assert waiting.opened == ["open"]
    assert left.opened == []
    assert account() == charged(2, 10)


async def test_a_server_that_lost_its_data_answers_no_call_that_was_open(make_books, account, valkey):
    books = await make_books()
    [call] = await _open_some(books, 1)

    valkey.flushall()
    await until_async(lambda: call.opened[-1] == "lost")
    accounts.create(ALICE, state=valkey)

    assert await call.close(books) == "gone"
    assert await Asked().open(books) == "open"
    assert records(valkey) == []


async def test_a_stopped_server_is_waited_for_and_no_answer_leaves_meanwhile(make_books, server, account, valkey):
    books = await make_books()
    call, waiting = Asked(), Asked()
    await call.open(books)

    server.process.send_signal(signal.SIGSTOP)
    try:
        books.open(waiting.open_call)
        await until_async(lambda: not books.may_answer())
        assert waiting.opened == []
    finally:
        server.process.send_signal(signal.SIGCONT)
    await until_async(lambda: books.may_answer())

    assert await call.close(books) == "closed"
    assert await waiting.undo(books) == "closed"


async def test_scripts_that_the_server_forgot_are_loaded_again(books, account, valkey):
    valkey.script_flush()

    assert await Asked().open(books) == "open"


async def test_a_busy_server_is_waited_for(books, account, valkey):
    valkey.config_set("busy-reply-threshold", 1)
    try:
        script = "local t = redis.call('TIME') while redis.call('TIME')[1] - t[1] < 2 do end return 1"
        busy = asyncio.create_task(asyncio.to_thread(valkey.eval, script, 0))
        await asyncio.sleep(0.3)
        call = Asked()
        assert await call.open(books) == "open"
        assert await busy == 1
        assert await call.close(books) == "closed"
    finally:
        valkey.config_set("busy-reply-threshold", 5000)


async def test_an_error_that_is_not_the_calls_fault_is_waited_out_and_costs_one_waiter_each(make_books, road, account):
    books = await make_books(dial=road.dial)
    wire = road.wires[-1]
    refusals = ["LOADING the dataset", "OOM command not allowed", "MISCONF errors writing", "READONLY replica"]
    send = wire.send

    def refuse(done, *command):
        if BOOKS.sha in command and refusals:
            send(done, "EVAL", f"return redis.error_reply('{refusals.pop()}')", "0")
        else:
            send(done, *command)

    wire.send = refuse
    calls = [Asked(most=1) for _ in range(3)]
    for call in calls:
        books.open(call.open_call)
    await until_async(lambda: all(call.opened for call in calls))

    assert refusals == []
    assert [call.opened for call in calls] == [["open"]] * 3
    assert account() == charged(3, 3)


async def test_a_registration_that_is_refused_is_repeated(make_books, road, account):
    dial = road.dial
    refusals = ["LOADING the dataset", "LOADING the dataset"]

    def refusing(on_connected, on_failed, on_lost) -> None:
        def connected(wire) -> None:
            send = wire.send

            def refuse(done, *command):
                if SESSION.sha in command and refusals:
                    send(done, "EVAL", f"return redis.error_reply('{refusals.pop()}')", "0")
                else:
                    send(done, *command)

            wire.send = refuse
            on_connected(wire)

        dial(connected, on_failed, on_lost)

    books = await make_books(dial=refusing)

    assert await Asked().open(books) == "open"
    assert refusals == []


async def test_a_stop_waits_for_closes_and_leaves_nothing(make_books, account, valkey):
    books = await make_books()
    calls = await _open_some(books, 5)
    for call in calls[:3]:
        books.close(call.open_call, call.record)
    for call in calls[3:]:
        books.undo(call.open_call)

    await books.stop()

    assert len(records(valkey)) == 3
    assert account() == charged(3, 15)
    assert valkey.keys("open:*") == []
    assert valkey.scard("sessions") == 0
    assert not books.is_connected
    assert not books.may_answer()


async def test_a_stop_with_open_calls_leaves_them_to_the_reaper(make_books, account, valkey):
    books = await make_books()
    await _open_some(books, 2)

    await books.stop()
    assert open_entries(valkey) == 2
    await _reap(valkey)

    assert account() == {}
    assert valkey.keys("open:*") == []


async def test_books_start_without_a_server_and_connect_when_it_comes(tmp_path, server, account):
    books = Books(f"unix://{tmp_path}/later.sock")
    await books.start(timeout=0.3)
    assert not books.is_connected
    (tmp_path / "later.sock").symlink_to(server.socket)

    await until_async(lambda: books.is_connected)

    assert await Asked().open(books) == "open"
    await books.stop()


async def test_a_script_for_a_session_that_is_not_there_writes_nothing(server, account, valkey):
    connection = await Connection.connect(server.url)
    keys = [open_key("nobody"), JOURNAL, FULL]
    arguments = [1 << 20, 0, 0, 1, 1, ALICE, "", "2026-11", 5, "live", "", "", "f" * 32, b"entry"]
    before = sorted(valkey.keys("*"))

    assert await connection.call("EVAL", BOOKS.source, len(keys), *keys, *arguments) == 0

    assert sorted(valkey.keys("*")) == before
    connection.close()
