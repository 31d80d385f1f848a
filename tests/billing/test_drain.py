"""Journal to ledger: exactly once, whatever dies in between."""

import threading
import time
from datetime import UTC, datetime

import psycopg2
import pytest
import redis

from billing.ledger import writing
from billing.ledger.drain import Drain
from inference.books.record import pack_record
from saas.lib.ids import uuid7
from tests.billing.journal import Journal, usage

EVENTS = "SELECT replace(call_id::text, '-', '') FROM usage_event WHERE tenant_id = %s"
CALLS = "SELECT sum(calls) FROM usage_month WHERE tenant_id = %s"
POSITION = "SELECT position FROM journal_position WHERE stream = %s"


def drain_all(drain: Drain) -> None:
    while drain.step():
        pass


def test_a_record_becomes_one_row_with_all_that_it_says(state, journal, tenant, ledger):
    record = usage(tenant, rows=7, nano=12, bytes_in=9, is_clamped=True, request_id="a\tb\\n\nc")
    entry = journal.add(record)

    drain_all(Drain(state, stream=journal.name))

    row = ledger(
        "SELECT day, replace(call_id::text, '-', ''), api_key_id::text, rows, amount_nano, bytes_in, is_clamped, request_id, "
        "opened_at, currency, stream_id, kind, mode, endpoint, model_name FROM usage_event WHERE tenant_id = %s",
        tenant,
    )
    opened = datetime.fromtimestamp(record.opened_ms / 1000, UTC)
    assert len(row) == 1
    assert row[0][0] == opened.date()
    assert row[0][1] == record.call
    assert row[0][2].replace("-", "") == record.key
    assert row[0][3:8] == (7, 12, 9, True, "a\tb\\n\nc")
    assert row[0][8] == opened
    assert row[0][9:] == ("USD", entry, "usage", "live", "infer", "catalog/iris")
    assert len(journal) == 0


def test_a_drain_that_died_between_commit_and_trim_counts_nothing_twice(state, journal, tenant, ledger):
    for _ in range(5):
        journal.add(usage(tenant), usage(tenant))
    entries = Drain(state, stream=journal.name)._read("0-0")
    dead = Drain(state, stream=journal.name)
    dead.trim = lambda: None  # dies right after its commit
    dead.step()
    assert len(journal) == len(entries)

    drain_all(Drain(state, stream=journal.name))

    assert len(ledger(EVENTS, tenant)) == 10
    assert ledger(CALLS, tenant) == [(10,)]
    assert len(journal) == 0


def test_a_drain_that_died_before_its_commit_left_nothing(state, journal, tenant, ledger):
    journal.add(usage(tenant))
    dead = Drain(state, stream=journal.name)
    dead.writer = writing.Writer(writing.connect())
    dead.position = writing.read_position(dead.writer.connection, journal.name)
    cursor = dead.writer.connection.cursor()
    writing.move_position(cursor, journal.name, dead.position, "9-9")
    dead.writer.connection.close()

    drain_all(Drain(state, stream=journal.name))

    assert len(ledger(EVENTS, tenant)) == 1


def test_of_two_drains_with_the_same_batch_one_writes(state, journal, tenant, ledger):
    journal.add(usage(tenant))
    first, second = Drain(state, stream=journal.name), Drain(state, stream=journal.name)
    for drain in (first, second):
        drain.writer = writing.Writer(writing.connect())
        drain.position = writing.read_position(drain.writer.connection, journal.name)
    first.trim = lambda: None

    assert first.step() == 1
    assert second.step() == 0

    assert len(ledger(EVENTS, tenant)) == 1


def test_drains_that_race_write_every_record_once(state, journal, tenant, ledger, embedded):
    stop, failures = threading.Event(), []

    def work():
        drain = Drain(redis.Redis.from_url(embedded["STATE_URL"]), stream=journal.name)
        try:
            while not stop.is_set() or len(journal):
                drain.step()
        except Exception as error:
            failures.append(error)
        finally:
            drain.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        journal.add(*(usage(tenant) for _ in range(4)))
    stop.set()
    for thread in threads:
        thread.join(30)

    assert failures == []
    assert len(ledger(EVENTS, tenant)) == 600
    assert ledger(CALLS, tenant) == [(600,)]


@pytest.mark.parametrize(
    "spoil",
    [
        {"mode": "other"},
        {"kind": "gift"},
        {"nano": -1},
        {"nano": 2**60},
        {"rows": 2**63},
        {"price_version": 4711},
        {"tenant": "not a tenant"},
        {"model": "z" * 32},
        {"period": "someday"},
        {"kind": "reversed", "nano": 1},
        {"request_id": "\x00"},
        {"opened_ms": 2**60},
        {"call": "f" * 32},
        {"call": "0" * 32},
        b"\xc1 no msgpack",
        b"\x93\x01\x02\x03",
    ],
    ids=str,
)
def test_a_bad_record_goes_into_quarantine_alone(state, journal, tenant, ledger, spoil):
    good = [usage(tenant) for _ in range(6)]
    bad = spoil if isinstance(spoil, bytes) else pack_record(usage(tenant, **{"call": uuid7().hex, **spoil}))
    journal.add(*good[:2])
    entry = journal.add(good[2], bad, *good[3:])

    drain_all(Drain(state, stream=journal.name))

    assert {call for (call,) in ledger(EVENTS, tenant)} == {record.call for record in good}
    quarantined = ledger("SELECT stream_id, number, raw, error FROM journal_quarantine WHERE stream = %s", journal.name)
    assert [(stream_id, number, bytes(raw)) for stream_id, number, raw, _ in quarantined] == [(entry, 1, bad)]
    assert quarantined[0][3]
    assert ledger(CALLS, tenant) == [(6,)]
    assert len(journal) == 0


def test_a_call_that_is_in_the_ledger_already_is_not_counted_again(state, journal, tenant, ledger):
    record = usage(tenant)
    journal.add(record)
    drain_all(Drain(state, stream=journal.name))
    journal.add(record, usage(tenant))

    drain_all(Drain(state, stream=journal.name))

    assert len(ledger(EVENTS, tenant)) == 2
    assert len(ledger("SELECT 1 FROM journal_quarantine WHERE stream = %s", journal.name)) == 1


def test_a_drain_whose_session_was_ended_goes_on_and_loses_nothing(state, journal, tenant, ledger, as_role):
    drain = Drain(state, stream=journal.name)
    drain.step()
    journal.add(usage(tenant))
    as_role("metering").execute("SELECT pg_terminate_backend(%s)", [drain.writer.connection.get_backend_pid()])

    with pytest.raises(psycopg2.Error):
        drain.step()
    assert len(journal) == 1
    drain_all(drain)

    assert len(ledger(EVENTS, tenant)) == 1


def test_a_lock_that_takes_too_long_makes_the_drain_try_again(state, journal, tenant, ledger, as_role):
    drain = Drain(state, stream=journal.name)
    drain.step()
    journal.add(usage(tenant))
    drain.writer.connection.cursor().execute("SET lock_timeout = '50ms'")
    drain.writer.connection.commit()
    other = as_role("metering")
    other.execute("BEGIN")
    other.execute("SELECT FROM journal_position WHERE stream = %s FOR UPDATE", [journal.name])

    with pytest.raises(psycopg2.errors.LockNotAvailable):
        drain.step()
    other.execute("ROLLBACK")
    drain_all(drain)

    assert len(ledger(EVENTS, tenant)) == 1


def test_the_trim_never_passes_the_position(state, journal, tenant, ledger):
    drain = Drain(state, stream=journal.name)
    journal.add(usage(tenant))
    drain.step()
    late = journal.add(usage(tenant))

    Drain(state, stream=journal.name).trim()  # of one that knows no position yet
    drain.trim()

    assert [entry.decode() for entry, _ in state.xrange(journal.name)] == [late]
    assert ledger(POSITION, journal.name)[0][0] < late


def test_a_large_journal_is_moved_in_several_batches(state, journal, tenant, ledger):
    for _ in range(60):
        journal.add(usage(tenant), usage(tenant))
    drain, steps = Drain(state, stream=journal.name, batch_records=50), []

    while count := drain.step():
        steps.append(count)

    assert len(steps) > 1
    assert sum(steps) == 120 == len(ledger(EVENTS, tenant))


def test_calls_of_yesterday_and_long_ago_have_their_partitions_made(state, journal, tenant, ledger):
    now = int(time.time() * 1000)
    days = [now - n * 86_400_000 for n in (0, 1, 400)]
    journal.add(*(usage(tenant, opened_ms=at) for at in days))

    drain_all(Drain(state, stream=journal.name))

    rows = ledger("SELECT day, tableoid::regclass::text FROM usage_event WHERE tenant_id = %s ORDER BY day DESC", tenant)
    dates = [datetime.fromtimestamp(at / 1000, UTC).date() for at in days]
    assert rows == [(day, f"usage_event_{day:%Y%m%d}") for day in dates]


def test_lag_is_the_age_of_the_oldest_entry_that_waited(state, journal, tenant, lanes):
    now = int(time.time() * 1000)
    state.execute_command("XADD", journal.name, f"{now - 60_000}-0", "r", pack_record(usage(tenant)))
    drain = Drain(state, stream=journal.name)
    drain.step()

    assert 60_000 <= drain.lag_ms < 120_000
    drain.report(lanes)
    assert int(lanes.hget("bookkeeper", "drain_lag_ms")) == drain.lag_ms
    drain.step()
    assert drain.lag_ms == 0


def test_an_empty_journal_is_no_trouble(state, journal):
    drain = Drain(state, stream=Journal(state).name)

    assert drain.step() == 0
    assert drain.lag_ms == 0
