"""What PostgreSQL's catalog says about isolation. A new table that forgets it fails here, whoever adds it."""

import re
from pathlib import Path

import pytest
from django.db import connections

WITHOUT_TENANT = {
    "tenants_user": "people belong to no tenant; memberships say where they act",
    "tenants_user_groups": "operators' groups",
    "tenants_user_user_permissions": "operators' permissions",
    "auth_group": "operators' groups",
    "auth_group_permissions": "operators' groups",
    "auth_permission": "Django's list of permissions",
    "django_content_type": "Django's list of models",
    "django_migrations": "what was migrated",
    "django_session": "sessions of people",
    "django_admin_log": "what operators did in the admin",
    "account_emailaddress": "addresses of people",
    "account_emailconfirmation": "confirmations of addresses of people",
    "tenants_recordchange": "outbox: the application may only add rows",
    "tenants_organization": "the tenant itself: its policy is on its id",
    "journal_position": "how far the journal was drained",
    "seal_progress": "up to where a journal's rows are collected for seals, and all hours are sealed",
    "usage_rollup": "how far the rows of a journal are in the hours",
    "journal_quarantine": "records of the journal that nobody could read; not for the application",
    "stripe_event_inbox": "what Stripe told, by its own ids; not for the application",
    "stripe_attempt": "keys of requests to Stripe that it answered 500; not for the application",
    "plan": "what is for sale, the same for all",
    "plan_version": "what is for sale, the same for all",
}
"""The reviewed tables without `tenant_id`."""

PLAIN_REFERENCES: dict[str, str] = {}
"""Reviewed foreign keys between tenant tables that may cross tenants, by constraint, with the reason."""


def ask(query, *parameters):
    with connections["owner"].cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def test_every_tenant_table_has_forced_row_level_security_and_a_policy():
    forgotten = ask("""
        SELECT c.relname FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r','p') AND NOT c.relispartition
        AND (a.attname IS NOT NULL OR c.relname = 'tenants_organization')
        AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
            SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polqual IS NOT NULL
            AND (p.polwithcheck IS NOT NULL OR p.polcmd = 'r')))
    """)
    assert forgotten == []


def test_every_table_has_a_tenant_or_was_reviewed():
    tables = ask("""
        SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r','p','m','v','f')
        AND NOT c.relispartition
        AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
    """)
    assert {name for (name,) in tables} - WITHOUT_TENANT.keys() == set()


def test_policies_for_the_application_name_the_tenant():
    loose = ask("""
        SELECT polrelid::regclass::text, polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
        FROM pg_policy WHERE polroles && ARRAY['maas_app'::regrole::oid, 0::oid]
    """)
    assert loose
    for table, name, using, check in loose:
        for expression in (using, check):
            is_tenant = expression is not None and "app.tenant" in expression
            is_public = expression is not None and "visibility" in expression and check is None
            assert expression is None or is_tenant or is_public, (table, name, expression)


def test_only_the_drain_reads_without_a_tenant():
    wide = ask("""
        SELECT DISTINCT r.rolname FROM pg_policy p JOIN pg_roles r ON r.oid = ANY (p.polroles)
        WHERE pg_get_expr(polqual, polrelid) = 'true' OR pg_get_expr(polwithcheck, polrelid) = 'true'
    """)
    assert {name for (name,) in wide} <= {"maas_metering"}


@pytest.mark.parametrize("role", ["maas_app", "maas_metering"])
def test_request_roles_hold_nothing_on_partitions_and_cannot_truncate(role):
    privileges = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    held = ask(
        f"""SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r','p')
        AND ((relispartition AND has_table_privilege(%s, oid, '{privileges}'))
        OR has_table_privilege(%s, oid, 'TRUNCATE, REFERENCES'))""",
        role,
        role,
    )
    assert held == []


def test_no_role_of_a_request_is_above_the_policies_or_owns_anything():
    above = "rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb"
    roles = ask(f"SELECT rolname, {above} FROM pg_roles WHERE rolname LIKE 'maas\\_%%'")
    assert {name for name, is_above in roles if is_above} == {"maas_door", "maas_ops"}
    owned = ask("SELECT relname FROM pg_class WHERE pg_get_userbyid(relowner) IN ('maas_app', 'maas_metering', 'maas_ops')")
    assert owned == []
    members = ask("""SELECT m.rolname, g.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
        JOIN pg_roles g ON g.oid = a.roleid WHERE m.rolname LIKE 'maas\\_%%'""")
    assert members == [("maas_owner", "maas_door")]


@pytest.mark.parametrize(
    ("table", "privileges"),
    [
        ("tenants_auditevent", "UPDATE, DELETE"),
        ("tenants_recordchange", "SELECT, UPDATE, DELETE"),
        ("tenants_organization", "UPDATE, DELETE"),
        ("journal_quarantine", "SELECT, INSERT, UPDATE, DELETE"),
        ("stripe_event_inbox", "SELECT, INSERT, UPDATE, DELETE"),
        ("stripe_attempt", "SELECT, INSERT, UPDATE, DELETE"),
    ],
)
def test_what_the_application_may_not_do_at_all(table, privileges):
    assert ask("SELECT has_table_privilege('maas_app', %s, %s)", table, privileges) == [(False,)]


def test_references_between_tenant_tables_carry_the_tenant():
    references = ask("""
        SELECT k.conname, k.conrelid::regclass::text, ARRAY(
            SELECT a.attname FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))
        FROM pg_constraint k
        WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid <> 'tenants_organization'::regclass
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attname = 'tenant_id')
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attname = 'tenant_id')
    """)
    composite = {(table, column) for _, table, columns in references if "tenant_id" in columns for column in columns}
    for name, table, columns in references:
        is_covered = "tenant_id" in columns or all((table, column) in composite for column in columns)
        assert is_covered or name in PLAIN_REFERENCES, f"{name} of {table} can point at another tenant's row"


def test_the_doors_are_those_of_the_documentation_and_closed_to_others():
    doors = ask("""
        SELECT p.proname, pg_get_userbyid(p.proowner), p.proconfig::text, has_function_privilege('public', p.oid, 'EXECUTE')
        FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef
    """)
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    listed = set(re.findall(r"^\| `([a-z0-9_]+)\(", page, re.MULTILINE))

    assert {name for name, *_ in doors} == listed
    for name, owner, configuration, is_public in doors:
        assert owner == ("maas_owner" if name == "ensure_usage_partition" else "maas_door"), name  # it creates a table
        assert not is_public, name
        assert "search_path=pg_catalog, public, pg_temp" in configuration, name
