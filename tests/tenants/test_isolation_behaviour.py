"""Every verb on every tenant table as the application's role, with rows of two organizations.

New tables are found by themselves. The rows are made by the database's superuser without foreign keys, and removed again.
"""

import json
import secrets
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import DatabaseError, DataError, IntegrityError, connection, connections, transaction
from psycopg2.errors import InsufficientPrivilege

from tenants.models import CATALOG_ID, ApiKey, AuditEvent, Organization, TenantQuerySet
from tenants.scope import set_tenant, tenant_scope
from tests.conftest import SERVERS

BY_COLUMN = {
    "visibility": "private", "number": "1.0.0", "period": "2026-11", "hour": "2026-11-26T04:00:00Z", "after_batch": 0,
    "sig": "\\x" + 64 * "00", "usage_seal.number": 1, "stripe_push.attempts": 0, "stripe_pushed.number": 1,
}  # fmt: skip
"""Values for columns with a constraint that is no list of values, or where the first listed one would not do."""
BY_TYPE = {
    "uuid": lambda: str(uuid4()),
    "bool": lambda: False,
    "date": lambda: datetime.now(UTC).date().isoformat(),
    "timestamptz": lambda: datetime.now(UTC).isoformat(),
    "bytea": lambda: "\\x" + secrets.token_hex(32),
    "jsonb": dict,
    "bpchar": lambda: "x",
    "varchar": lambda: secrets.token_hex(4),
    "text": lambda: secrets.token_hex(4),
}


@pytest.fixture
def superuser(embedded):
    with closing(SERVERS[0].connect()) as session, session.cursor() as cursor:
        cursor.execute("SELECT ensure_usage_partition((now() AT TIME ZONE 'utc')::date)")
        cursor.execute("SET session_replication_role = replica")  # no foreign keys, no triggers
        yield cursor


@pytest.fixture(scope="module")
def tables(embedded):
    """Name → the column that holds the tenant, of every tenant table."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("""SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r','p') AND NOT c.relispartition""")
        return {name: "tenant_id" for (name,) in cursor.fetchall()} | {"tenants_organization": "id"}


def a_value(table, column, kind, longest):
    value = BY_COLUMN.get(f"{table}.{column}", BY_COLUMN.get(column, BY_TYPE.get(kind, lambda: 1)()))
    return value[:longest] if kind in ("varchar", "bpchar") and longest > 0 else value


def listed_values(cursor, table):
    """For each column that a constraint limits to a list of values, the first of them."""
    cursor.execute(
        """SELECT a.attname, substring(pg_get_constraintdef(k.oid) FROM 'ARRAY[[]''([^'']*)''')
        FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND ARRAY[a.attnum] = k.conkey
        WHERE k.contype = 'c' AND k.conrelid = %s::regclass""",
        [table],
    )
    return {name: value for name, value in cursor.fetchall() if value is not None}


def make_row(cursor, table, column, tenant):
    """A row of `tenant` in `table`, as JSON."""
    cursor.execute(
        """SELECT a.attname, t.typname, t.typelem <> 0 AND t.typlen = -1, a.atttypmod - 4
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND a.attgenerated = ''
        AND a.attidentity = '' AND NOT a.atthasdef""",
        [table],
    )
    row = {name: [] if is_array else a_value(table, name, kind, longest) for name, kind, is_array, longest in cursor.fetchall()}
    row |= {name: value for name, value in listed_values(cursor, table).items() if name not in BY_COLUMN}
    row[column] = str(tenant)
    columns = ", ".join(f'"{name}"' for name in row)
    values = f"SELECT {columns} FROM json_populate_record(null::{table}, %s)"
    cursor.execute(f"INSERT INTO {table} ({columns}) {values} RETURNING to_jsonb({table})", [json.dumps(row)])
    return cursor.fetchone()[0]


@pytest.fixture
def rows(superuser, tables):
    """(table, tenant column, row of the first organization, row of the second) for each tenant table."""
    first, second = uuid4(), uuid4()
    yield [
        (table, column, *(make_row(superuser, table, column, who) for who in (first, second)))
        for table, column in tables.items()
    ]
    for table, column in tables.items():
        superuser.execute(f"DELETE FROM {table} WHERE {column} IN (%s, %s)", [str(first), str(second)])


def attempt(statement, *parameters):
    """How many rows the statement touched as the application's role; None if it was refused. Leaves nothing behind."""
    with connection.cursor() as cursor:
        try:
            with transaction.atomic():
                cursor.execute(statement, parameters)
                touched = cursor.rowcount
                transaction.set_rollback(True)
        except DatabaseError as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                return None
            raise
    return touched


def as_new(row, column, tenant):
    """The same row under new keys, for `tenant`."""
    fresh = {name: str(uuid4()) if name in ("id", "call_id") else value for name, value in row.items()}
    return json.dumps(fresh | {column: tenant})


def unique_columns(table):
    """The columns of its primary key, or of another unique index on all its rows."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey::int2[]))
            FROM pg_index WHERE indrelid = %s::regclass AND indisunique AND indpred IS NULL AND indexprs IS NULL
            ORDER BY indisprimary DESC LIMIT 1
            """,
            [table],
        )
        return cursor.fetchone()[0]


INSERT = "INSERT INTO {0} SELECT * FROM json_populate_record(null::{0}, %s)"


def test_without_a_tenant_nothing_is_seen_and_nothing_is_taken(rows):
    for table, column, mine, _ in rows:
        with transaction.atomic():
            assert attempt(f"SELECT 1 FROM {table} WHERE {column} = %s", mine[column]) in (0, None), table
            assert attempt(INSERT.format(table), as_new(mine, column, mine[column])) is None, table
            assert attempt(f"UPDATE {table} SET {column} = {column} WHERE {column} = %s", mine[column]) in (0, None), table
            assert attempt(f"DELETE FROM {table} WHERE {column} = %s", mine[column]) in (0, None), table


def test_one_tenant_cannot_touch_the_rows_of_another(rows):
    for table, column, mine, theirs in rows:
        with tenant_scope(mine[column]):
            assert attempt(f"SELECT 1 FROM {table} WHERE {column} = %s", mine[column]) == 1, f"{table}: the own row is not seen"
            others = f"SELECT 1 FROM {table} WHERE {column} NOT IN (%s, %s)"  # the catalogue's public rows are everybody's
            assert attempt(others, mine[column], str(CATALOG_ID)) == 0, table
            assert attempt(f"UPDATE {table} SET {column} = {column} WHERE {column} = %s", theirs[column]) in (0, None), table
            assert attempt(f"DELETE FROM {table} WHERE {column} = %s", theirs[column]) in (0, None), table
            assert attempt(INSERT.format(table), as_new(theirs, column, theirs[column])) is None, table
            key = unique_columns(table)
            for conflict in ("DO NOTHING", f"({', '.join(key)}) DO UPDATE SET {key[0]} = excluded.{key[0]}"):
                assert attempt(f"{INSERT.format(table)} ON CONFLICT {conflict}", json.dumps(theirs)) is None, table
            assert attempt(f"UPDATE {table} SET {column} = %s WHERE {column} = %s", theirs[column], mine[column]) is None, table


def test_a_foreign_key_to_the_row_of_another_tenant_is_refused(make_organization, make_key):
    mine, theirs = make_organization(), make_organization()
    other = make_key(theirs)[0]

    with pytest.raises(IntegrityError, match="same_tenant"), tenant_scope(mine.id):
        key_that_replaces(other.id, mine).save(force_insert=True)


def key_that_replaces(other, organization):
    values = {"name": "x", "public_id": secrets.token_hex(6), "mode": "live", "hash": b"", "pepper_version": 1, "scopes": []}
    return ApiKey(organization=organization, replaces=other, **values)


def test_tenants_that_alternate_on_one_connection_see_their_own(make_organization, make_key):
    organizations = [make_organization() for _ in range(3)]
    expected = {organization.id: {make_key(organization)[0].id} for organization in organizations}
    pid = connection.connection.get_backend_pid()

    for turn in range(2_000):
        organization = organizations[turn % 3]
        try:
            with tenant_scope(organization.id), connection.cursor() as cursor:
                cursor.execute("SELECT id FROM tenants_apikey")
                assert {row[0] for row in cursor.fetchall()} == expected[organization.id]
                if turn % 7 == 0:
                    cursor.execute("SELECT 1 / 0")
                if turn % 11 == 0:
                    raise RuntimeError
        except (RuntimeError, DataError):  # the ones raised here
            pass
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM tenants_apikey")
            assert cursor.fetchone() == (0,)
    assert connection.connection.get_backend_pid() == pid


def test_a_tenant_can_only_be_set_inside_of_a_transaction(make_organization):
    with pytest.raises(transaction.TransactionManagementError):
        set_tenant(make_organization().id)
    with pytest.raises(RuntimeError), transaction.atomic(), tenant_scope(uuid4()):
        pass


def strangers_requests(client, key):
    url = f"/api/v1/keys/{key.shown_id}"
    return [
        client.get(url).status_code,
        client.patch(url, {"name": "theirs"}, format="json").status_code,
        client.post(f"{url}/rotate", {}, format="json").status_code,
        client.delete(url).status_code,
    ]


def test_row_level_security_holds_where_a_query_forgets_its_tenant(monkeypatch, client_of, alice, charlie, make_key):
    key = make_key(alice.organization)[0]
    monkeypatch.setattr(TenantQuerySet, "of", lambda rows, organization: rows)  # the mutation: no filter at all

    assert strangers_requests(client_of(charlie), key) == [404] * 4
    assert client_of(charlie).get("/api/v1/keys").json()["results"] == []


def test_queries_name_their_tenant_where_row_level_security_is_off(superuser, client_of, alice, charlie, make_key):
    key = make_key(alice.organization)[0]
    tables = ("tenants_apikey", "tenants_membership", "tenants_auditevent", "tenants_invitation")
    try:
        for table in tables:
            superuser.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        with transaction.atomic():
            assert ApiKey.objects.filter(id=key.id).exists()  # the mutation works
        client = client_of(charlie)
        assert strangers_requests(client, key) == [404] * 4
        assert client.get("/api/v1/keys").json()["results"] == []
        assert [member["email"] for member in client.get("/api/v1/members").json()["results"]] == [charlie.email]
        assert alice.organization.shown_id not in client.get("/api/v1/audit-events").content.decode()
    finally:
        for table in tables:
            superuser.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def test_the_application_cannot_change_the_audit_log_or_an_organizations_limits(alice):
    organization = alice.organization
    with tenant_scope(organization.id):
        assert AuditEvent.objects.filter(action="organization.created").exists()
        assert attempt("UPDATE tenants_auditevent SET action = 'x'") is None
        assert attempt("DELETE FROM tenants_auditevent") is None
        assert attempt("UPDATE tenants_organization SET rate = 1e9") is None
        assert attempt("UPDATE tenants_organization SET is_active = true") is None
        assert attempt("DELETE FROM tenants_organization") is None
        assert attempt("UPDATE tenants_organization SET name = 'x'") == 1
        assert Organization.objects.count() == 1


def test_the_application_cannot_make_or_change_an_operator(make_user):
    from tenants.databases import as_operator

    user = make_user("eve")
    with as_operator():
        operator = make_user("olga")
        operator.is_staff = True
        operator.save()
    with transaction.atomic():
        assert attempt("UPDATE tenants_user SET is_staff = true WHERE id = %s", user.id) is None
        assert attempt("UPDATE tenants_user SET is_superuser = true WHERE id = %s", user.id) is None
        for change in ("password = 'x'", "email = 'x@example.org'", "is_active = false", "last_login = now(), password = 'x'"):
            assert attempt(f"UPDATE tenants_user SET {change} WHERE id = %s", operator.id) is None, change
        assert attempt("DELETE FROM tenants_user WHERE id = %s", operator.id) is None
        assert attempt("UPDATE tenants_user SET last_login = now() WHERE id = %s", operator.id) == 1
        assert attempt("UPDATE tenants_user SET name = 'Eve' WHERE id = %s", user.id) == 1
