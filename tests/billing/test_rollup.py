"""Hours and sums: always what the rows add up to."""

import random
import time
from contextlib import closing
from threading import Thread

import psycopg2
import pytest

from billing.ledger.drain import Drain
from billing.ledger.hours import BEGIN, RollUp, catch_up
from billing.ledger.writing import connect
from saas.lib.ids import uuid7
from tests.billing.journal import settle, usage
from tests.service import until

HOURS = """
SELECT hour, api_key_id, model_id, version_id, mode, calls, reversed, rows, bytes_in, bytes_out, queue_us, compute_us, total_ms,
  amount_nano FROM usage_hour WHERE tenant_id = %s ORDER BY 1, 2, 3, 4, 5
"""
HOURS_OF_EVENTS = """
SELECT date_trunc('hour', opened_at), api_key_id, model_id, version_id, mode,
  count(*) FILTER (WHERE kind = 'usage'), count(*) FILTER (WHERE kind = 'reversed'),
  coalesce(sum(rows) FILTER (WHERE kind = 'usage'), 0), coalesce(sum(bytes_in) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(bytes_out) FILTER (WHERE kind = 'usage'), 0), coalesce(sum(queue_us) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(compute_us) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(round(extract(epoch FROM closed_at - opened_at) * 1000)) FILTER (WHERE kind = 'usage'), 0),
  coalesce(sum(amount_nano) FILTER (WHERE kind = 'usage'), 0)
FROM usage_event WHERE tenant_id = %s GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""
WAITING = "SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = %s"
CALLS = "SELECT sum(calls) FROM usage_hour WHERE tenant_id = %s"


@pytest.fixture
def connection(embedded):
    with closing(connect()) as connection:
        yield connection


def test_hours_and_sums_equal_the_events(state, journal, tenant, ledger, connection):
    chance = random.Random(7)
    keys, models = ["", uuid7().hex, uuid7().hex], [(uuid7().hex, uuid7().hex) for _ in range(3)]
    now = int(time.time() * 1000)
    drain, records = Drain(state, stream=journal.name), []
    for _ in range(30):
        tick = []
        for _ in range(chance.randint(1, 12)):
            model, version = chance.choice(models)
            kind = chance.choices(["usage", "reversed"], [9, 1])[0]
            opened = now - chance.randrange(3 * 3_600_000)
            tick.append(
                usage(
                    tenant, key=chance.choice(keys), model=model, version=version, kind=kind, opened_ms=opened,
                    closed_ms=opened + chance.randrange(50), mode=chance.choice(["live", "test"]),
                    nano=chance.randrange(1000) if kind == "usage" else 0, rows=chance.randrange(5),
                )
            )  # fmt: skip
        journal.add(*tick)
        records += tick
        if chance.random() < 0.3:
            drain.step()
        if chance.random() < 0.3:
            catch_up(connection, journal.name)
    settle(state, journal.name)

    assert ledger(HOURS, tenant) == ledger(HOURS_OF_EVENTS, tenant)
    counted = [r for r in records if r.kind == "usage" and r.mode == "live"]
    expected = {}
    for record in counted:
        calls, nano = expected.get((record.key or "0" * 32, record.period), (0, 0))
        expected[record.key or "0" * 32, record.period] = (calls + 1, nano + record.nano)
    sums = ledger(
        "SELECT replace(api_key_id::text, '-', ''), period, calls, amount_nano FROM usage_month WHERE tenant_id = %s", tenant
    )
    assert {(key, period): (calls, nano) for key, period, calls, nano in sums} == expected


def test_a_reversed_call_is_shown_and_costs_nothing(state, journal, tenant, ledger):
    journal.add(usage(tenant, kind="reversed", nano=0))
    settle(state, journal.name)

    assert ledger("SELECT calls, reversed, rows, amount_nano FROM usage_hour WHERE tenant_id = %s", tenant) == [(0, 1, 0, 0)]
    assert ledger("SELECT 1 FROM usage_month WHERE tenant_id = %s", tenant) == []


def test_test_calls_raise_no_sum(state, journal, tenant, ledger):
    journal.add(usage(tenant, mode="test", nano=0))
    settle(state, journal.name)

    assert ledger("SELECT mode, calls FROM usage_hour WHERE tenant_id = %s", tenant) == [("test", 1)]
    assert ledger("SELECT 1 FROM usage_month WHERE tenant_id = %s", tenant) == []


def test_each_roll_up_adds_what_came_since(state, journal, tenant, ledger, connection):
    drain = Drain(state, stream=journal.name)
    for total in (1, 2, 3):
        journal.add(usage(tenant))
        drain.step()

        assert catch_up(connection, journal.name)
        assert not catch_up(connection, journal.name)
        assert ledger(CALLS, tenant) == [(total,)]


def test_a_row_of_a_new_month_is_rolled_up_when_it_comes_late(state, journal, tenant, ledger):
    """A call's hour is that in which it was opened, however long it took."""
    now = int(time.time() * 1000)
    journal.add(usage(tenant))
    settle(state, journal.name)
    journal.add(usage(tenant, opened_ms=now - 86_400_000))
    settle(state, journal.name)

    assert ledger("SELECT count(*), sum(calls) FROM usage_hour WHERE tenant_id = %s", tenant) == [(2, 2)]


def is_waiting(cursor, pid: int) -> bool:
    cursor.execute(WAITING, [pid])
    return cursor.fetchone() == (True,)


def test_of_two_roll_ups_at_once_one_adds(state, journal, tenant, ledger, connection, as_role):
    journal.add(usage(tenant))
    Drain(state, stream=journal.name).step()
    with connection, connection.cursor() as cursor:
        cursor.execute(BEGIN, [journal.name])
    moved = []
    with closing(connect()) as first, first.cursor() as cursor:
        cursor.execute("SELECT FROM usage_rollup WHERE stream = %s FOR UPDATE", [journal.name])  # so that the second waits
        second = Thread(target=lambda: moved.append(catch_up(connection, journal.name)))
        second.start()
        until(lambda: is_waiting(as_role("metering"), connection.get_backend_pid()), seconds=60)
        assert catch_up(first, journal.name)
        second.join(60)

    assert moved == [0]
    assert ledger(CALLS, tenant) == [(1,)]


def test_a_roll_up_that_fails_has_added_nothing_and_goes_on_later(state, journal, tenant, ledger, connection, as_role):
    journal.add(usage(tenant))
    Drain(state, stream=journal.name).step()
    connection.cursor().execute("SET lock_timeout = '50ms'")
    connection.commit()
    owner = as_role("owner")
    owner.execute("BEGIN; LOCK TABLE usage_hour IN EXCLUSIVE MODE")

    with pytest.raises(psycopg2.errors.LockNotAvailable):
        catch_up(connection, journal.name)
    owner.execute("ROLLBACK")

    assert catch_up(connection, journal.name)
    assert ledger(CALLS, tenant) == [(1,)]


def test_the_more_hours_it_has_changed_the_longer_it_rests(state, journal, tenant, ledger):
    now = 1000.0
    rollup = RollUp(stream=journal.name, clock=lambda: now)
    drain = Drain(state, stream=journal.name)
    journal.add(*(usage(tenant) for _ in range(200)))
    drain.step()
    assert rollup.step()
    journal.add(usage(tenant))
    drain.step()

    now += 0.009
    assert not rollup.step()
    now += 0.002
    assert rollup.step()
    assert ledger(CALLS, tenant) == [(201,)]
    rollup.close()
