"""The bookkeeper as a process: it does its work, and survives what it is built to survive."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference.books import accounts
from inference.books.scripts import JOURNAL, WANTED
from tenants.actions import set_organization_limits
from tenants.principal import unpack_key
from tests.billing.journal import Journal, usage
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]
ROWS = "SELECT count(*) FROM usage_event WHERE tenant_id = %s"


@contextmanager
def bookkeeper():
    process = subprocess.Popen([sys.executable, "manage.py", "bookkeeper"], cwd=ROOT, env=os.environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def journal(state) -> Journal:
    return Journal(state, JOURNAL)


def test_it_drains_rebuilds_and_reports_and_stops_when_told(journal, tenant, ledger, state, lanes):
    journal.add(usage(tenant))
    state.sadd(WANTED, tenant.hex)
    with bookkeeper() as process:
        until(lambda: ledger(ROWS, tenant) == [(1,)])
        until(lambda: accounts.read(tenant.hex) is not None)
        until(lambda: lanes.hget("bookkeeper", "drain_rows") not in (None, b"0"))
        process.send_signal(signal.SIGTERM)

        assert process.wait(PATIENCE) == 0

    assert accounts.read(tenant.hex).sums["organization", "ever"] == (1, 5)


def test_it_relays_what_was_noted_for_gateways_without_a_broker(make_organization, make_key, lanes):
    organization = make_organization()
    names = [f"key:{make_key(organization)[0].public_id}" for _ in range(2)]
    with bookkeeper():
        set_organization_limits(organization.id, is_active=False)
        until(lambda: not any(unpack_key(lanes.get(name)).is_active for name in names))


def test_it_lets_the_sums_of_old_months_go(tenant, state):
    sums = {"calls:2024-12:": 3, "nano:2024-12:": 30, "calls:ever:": 3, "nano:ever:": 30}
    state.hset(f"account:{tenant.hex}", mapping={"limits_version": 0, **sums})
    with bookkeeper():
        until(lambda: accounts.read(tenant.hex).sums == {("organization", "ever"): (3, 30)})
    state.delete(f"account:{tenant.hex}")


def test_killed_over_and_over_it_writes_every_record_once(journal, tenant, ledger):
    for kill in range(4):
        with bookkeeper() as process:
            for _ in range(40):
                journal.add(usage(tenant), usage(tenant))
            if kill < 3:
                until(lambda: ledger(ROWS, tenant)[0][0] > 0)
                process.send_signal(signal.SIGKILL)
                process.wait()
            else:
                until(lambda: ledger(ROWS, tenant) == [(320,)])
                until(lambda: ledger("SELECT sum(calls) FROM usage_hour WHERE tenant_id = %s", tenant) == [(320,)])

    assert ledger("SELECT sum(calls) FROM usage_month WHERE tenant_id = %s", tenant) == [(320,)]


def test_it_goes_on_when_the_database_ends_its_sessions(journal, tenant, ledger, as_role):
    with bookkeeper() as process:
        journal.add(usage(tenant))
        until(lambda: ledger(ROWS, tenant) == [(1,)])
        me = as_role("metering")
        me.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
        )
        journal.add(usage(tenant))
        until(lambda: ledger(ROWS, tenant) == [(2,)])

        assert process.poll() is None


def test_it_waits_for_a_state_server_that_stands_still(journal, tenant, ledger, state):
    with bookkeeper() as process:
        until(lambda: ledger("SELECT 1 FROM journal_position WHERE stream = %s", JOURNAL) != [])
        server = int(state.info("server")["process_id"])
        journal.add(usage(tenant))
        os.kill(server, signal.SIGSTOP)
        try:
            time.sleep(1)
        finally:
            os.kill(server, signal.SIGCONT)
        until(lambda: ledger(ROWS, tenant) == [(1,)])

        assert process.poll() is None


def test_keys_show_when_they_were_last_used(make_organization, make_key, ledger):
    from contextlib import closing

    from billing.ledger.last_used import LastUsed
    from billing.ledger.records import NO_KEY
    from billing.ledger.writing import connect

    organization = make_organization()
    key, _ = make_key(organization)
    record = usage(organization.id, key=key.id.hex)
    seen = LastUsed()
    seen.note({record.key: record.opened_ms, NO_KEY: record.opened_ms})
    with closing(connect()) as connection:
        seen.flush(connection)
        seen.note({record.key: record.opened_ms - 60_000})
        seen.flush(connection)

    found = ledger("SELECT round(extract(epoch FROM last_used_at) * 1000) FROM tenants_apikey WHERE id = %s", key.id)
    assert found == [(record.opened_ms,)]
