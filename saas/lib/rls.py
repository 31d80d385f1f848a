"""Row-level security as migration operations.

The roles are made by saas/local/roles.sql: `maas_owner` runs migrations and owns the tables, `maas_app` serves requests
and sees one tenant at a time, `maas_metering` writes the ledger, `maas_ops` (BYPASSRLS) is for operators and sweepers,
`maas_door` (BYPASSRLS, no login) owns the few functions that may look across tenants. The tenant is set with
`set_config('app.tenant', …, true)`, for one transaction; without it a policy matches no row.
"""

from django.db.migrations import RunSQL

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"  # a subselect is evaluated once per statement


def tenant_policy(table: str, *, column: str = "tenant_id") -> RunSQL:
    """FORCE row-level security on `table`: the application sees and writes the rows of its tenant, nothing else."""
    return RunSQL(
        f"""
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
        CREATE POLICY tenant ON {table} TO maas_app USING ({column} = {TENANT}) WITH CHECK ({column} = {TENANT});
        """,
        f"""
        DROP POLICY tenant ON {table};
        ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;
        """,
    )


def tenant_key(table: str) -> RunSQL:
    """Make (tenant_id, id) of `table` a target for composite foreign keys."""
    name = f"{table}_tenant_id_key"
    return RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE (tenant_id, id)", f"ALTER TABLE {table} DROP CONSTRAINT {name}"
    )


def tenant_reference(table: str, column: str, target: str, *, on_delete: str = "NO ACTION") -> RunSQL:
    """A foreign key (tenant_id, `column`) → `target` (tenant_id, id): no row can point at another tenant's."""
    name = f"{table}_{column}_same_tenant"
    return RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (tenant_id, {column}) "
        f"REFERENCES {target} (tenant_id, id) ON DELETE {on_delete} DEFERRABLE INITIALLY DEFERRED",
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
    )


def door(name: str, arguments: str, returns: str, query: str) -> RunSQL:
    """A SECURITY DEFINER function through the policies, with a fixed search path, for `maas_app` only.

    Every door is listed in docs/security.md and tested; there are no others.
    """
    types = ", ".join(part.split()[-1] for part in arguments.split(",") if part.strip())
    return RunSQL(
        f"""
        CREATE FUNCTION {name}({arguments}) RETURNS {returns} LANGUAGE sql STABLE SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $door$ {query} $door$;
        ALTER FUNCTION {name}({types}) OWNER TO maas_door;
        REVOKE ALL ON FUNCTION {name}({types}) FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION {name}({types}) TO maas_app;
        """,
        f"DROP FUNCTION {name}({types})",
    )
