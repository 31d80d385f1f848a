"""Who may do what with the ledger."""

from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from saas.lib.ids import uuid7
from tests.billing.journal import settle, usage

TENANT_TABLES = ["usage_event", "usage_hour", "usage_month", "quota_change", "usage_seal", "seal_due"]
TABLES = [*TENANT_TABLES, "journal_position", "usage_rollup", "journal_quarantine", "price_version", "seal_progress"]
OF_CREDIT = ["budget", "credit_grant", "credit_month", "alert_fired", "subscription", "plan_version"]
EVERY = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
REFUSED = psycopg2.errors.InsufficientPrivilege


@pytest.fixture
def used(state, journal, tenant):
    """An organization with one call in the ledger, and another's beside it."""
    journal.add(usage(tenant), usage(uuid7()))
    settle(state, journal.name)
    return tenant


@pytest.mark.parametrize("table", ["usage_event", "usage_hour", "usage_month"])
def test_the_application_reads_its_tenants_rows_only(used, as_role, table):
    own = as_role("app", used)
    own.execute(f"SELECT DISTINCT tenant_id FROM {table}")
    assert [str(tenant) for (tenant,) in own.fetchall()] == [str(used)]

    nobody = as_role("app")
    nobody.execute(f"SELECT count(*) FROM {table}")
    assert nobody.fetchone() == (0,)


@pytest.mark.parametrize(
    ("role", "table"),
    [(role, table) for role in ("app", "ops") for table in TABLES if (role, table) != ("ops", "price_version")],
)
def test_nobody_but_the_drain_writes(used, as_role, role, table):
    cursor = as_role(role, used)
    for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(REFUSED):
            cursor.execute(statement)


@pytest.mark.parametrize("role", ["app", "ops", "metering"])
def test_a_row_of_the_ledger_is_never_changed(used, as_role, role):
    for statement in (
        "UPDATE usage_event SET rows = 0",
        "DELETE FROM usage_event",
        "UPDATE price_version SET currency = 'EUR'",
    ):
        with pytest.raises(REFUSED):
            as_role(role, used).execute(statement)


def test_the_drain_can_see_nothing_but_the_ledger(embedded, as_role):
    owner = as_role("owner")
    owner.execute(
        "SELECT relname FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    tables = {name for (name,) in owner.fetchall()} - {*TABLES, *OF_CREDIT}
    assert "tenants_apikey" in tables

    for table in tables:
        owner.execute(
            "SELECT has_table_privilege('maas_metering', %s, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')",
            [table],
        )
        assert owner.fetchone() == (False,), table


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("app", "INSERT INTO credit_grant DEFAULT VALUES"),
        ("app", "UPDATE credit_grant SET remaining_nano = 0"),
        ("app", "UPDATE credit_month SET spent_nano = 0"),
        ("app", "DELETE FROM alert_fired"),
        ("metering", "INSERT INTO credit_grant DEFAULT VALUES"),
        ("metering", "UPDATE credit_grant SET amount_nano = 1"),
        ("metering", "UPDATE budget SET amount_nano = 1"),
        ("metering", "UPDATE alert_fired SET percent = 1"),
        ("metering", "UPDATE subscription SET state = 'closed'"),
        ("ops", "UPDATE credit_grant SET amount_nano = 1"),
        ("ops", "DELETE FROM credit_grant"),
        ("ops", "DELETE FROM credit_month"),
        ("ops", "DELETE FROM alert_fired"),
    ],
)
def test_credit_is_written_by_whoever_must_and_in_the_columns_they_must(as_role, tenant, role, statement):
    with pytest.raises(REFUSED):
        as_role(role, tenant).execute(statement)


def test_nobody_has_a_privilege_on_a_partition(used, as_role):
    owner = as_role("owner")
    owner.execute(
        f"""
        SELECT c.relname, r.rolname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
          pg_roles r WHERE i.inhparent = 'usage_event'::regclass
          AND r.rolname IN ('maas_app', 'maas_ops', 'maas_metering', 'maas_door')
          AND has_table_privilege(r.oid, c.oid, '{EVERY}')
        """
    )
    assert owner.fetchall() == []
    owner.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_event'::regclass")
    partitions = [name for (name,) in owner.fetchall()]
    assert partitions
    for role in ("app", "ops", "metering"):
        with pytest.raises(REFUSED):
            as_role(role, used).execute(f"SELECT * FROM {partitions[0]}")


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_row_level_security_is_forced(as_role, table):
    owner = as_role("owner")
    owner.execute("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = %s", [table])
    assert owner.fetchone() == (True, True)


def test_partitions_are_made_for_days_that_can_be(as_role, ledger):
    metering, ahead = as_role("metering"), datetime.now(UTC).date() + timedelta(days=30)
    for _ in range(2):
        metering.execute("SELECT ensure_usage_partition(%s)", [ahead])
    assert ledger("SELECT to_regclass(%s)::text", f"usage_event_{ahead:%Y%m%d}") == [(f"usage_event_{ahead:%Y%m%d}",)]

    for day in (datetime(1999, 1, 1).date(), ahead + timedelta(days=1000)):
        with pytest.raises(psycopg2.DataError):
            metering.execute("SELECT ensure_usage_partition(%s)", [day])


def test_the_doors_are_closed_to_others(as_role):
    for role, call in [
        ("app", "ensure_usage_partition(current_date)"),
        ("ops", "ensure_usage_partition(current_date)"),
        ("app", "touch_api_keys('{}', '{}')"),
        ("ops", "limits_of(gen_random_uuid())"),
    ]:
        with pytest.raises(REFUSED):
            as_role(role).execute(f"SELECT {call}")
