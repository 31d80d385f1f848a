"""The comparison of the books can be kept to the days of late: it finds what is wrong in these, and reads no others."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command

from billing import tasks
from billing.ledger import verify
from saas.lib import clock
from tests.billing.journal import settle, usage

TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
SINCE = (TODAY - timedelta(days=8)).date()


@pytest.fixture
def days(journal, state, tenant, as_role):
    """A call today and one of forty days ago; `spoil(day)` changes the hour of one by a nano, and its month."""
    there = {"today": TODAY, "long ago": TODAY - timedelta(days=40)}
    for at in there.values():
        journal.add(usage(tenant, nano=5, max_nano=5, opened_ms=int(at.timestamp() * 1000), period=f"{at:%Y-%m}"))
    settle(state, journal.name)
    cursor = as_role("metering")

    def spoil(day):
        at = there[day]
        values = [str(tenant), at.replace(minute=0)]
        cursor.execute("UPDATE usage_hour SET amount_nano = 6 WHERE tenant_id = %s AND hour = %s", values)
        assert cursor.rowcount == 1
        cursor.execute("UPDATE usage_month SET calls = 2 WHERE tenant_id = %s AND period = %s", [str(tenant), f"{at:%Y-%m}"])
        assert cursor.rowcount == 1

    return spoil


def found(tenant, *since):
    kinds = [line.split()[0] for line in verify.differences(*since) if str(tenant) in line]
    return sorted(kind for kind in kinds if kind in ("hour", "sum"))


def test_right_books_have_no_differences_however_much_is_read(days, tenant):
    assert found(tenant) == found(tenant, SINCE) == []


def test_what_is_wrong_of_late_is_found_without_the_rest(days, tenant):
    days("today")
    assert found(tenant, SINCE) == ["hour", "sum"]


def test_what_is_wrong_of_long_ago_is_found_when_all_is_read(days, tenant):
    days("long ago")
    assert found(tenant, SINCE) == []
    assert found(tenant) == ["hour", "sum"]


def test_partitions_of_long_ago_are_not_read(days, ledger):
    plan = " ".join(line for (line,) in ledger("EXPLAIN " + verify.AMOUNTS.replace("%(since)s", f"'{SINCE}'")))
    names = plan.replace("_", "").replace("-", "")

    assert f"{TODAY:%Y%m%d}" in names
    assert f"{TODAY - timedelta(days=40):%Y%m%d}" not in names


@pytest.mark.parametrize(("day", "expected"), [("2026-11-25", []), ("2026-11-29", ["all"])])
def test_each_night_the_last_week_and_on_sundays_all(monkeypatch, day, expected):
    asked = []
    monkeypatch.setattr(tasks, "differences", lambda *since: asked.append(since) or [])
    monkeypatch.setattr(clock, "now", lambda: datetime.fromisoformat(day).replace(tzinfo=UTC))

    tasks.verify_books()

    assert asked == [()] if expected else asked == [(datetime.fromisoformat(day).date() - tasks.VERIFIED,)]


def test_the_command_takes_days(days, tenant, capsys):
    days("long ago")
    with pytest.raises(SystemExit):
        call_command("verify_books")
    assert str(tenant) in capsys.readouterr().out
    with suppress(SystemExit):  # for what other tests have left
        call_command("verify_books", "--days", "8")
    told = [line for line in capsys.readouterr().out.splitlines() if str(tenant) in line]
    assert [line for line in told if line.startswith(("hour", "sum"))] == []
