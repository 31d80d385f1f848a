"""Row-level security on every tenant table, the doors through it, and what the application's role may not do at all."""

from django.db import migrations

from saas.lib.rls import door, tenant_key, tenant_policy, tenant_reference

PRIVILEGES = """
REVOKE UPDATE, DELETE, TRUNCATE ON tenants_auditevent FROM maas_app, maas_ops;
REVOKE SELECT, UPDATE, DELETE ON tenants_recordchange FROM maas_app;
REVOKE UPDATE, DELETE ON tenants_organization FROM maas_app;
GRANT UPDATE (name) ON tenants_organization TO maas_app;
"""
PRIVILEGES_BACK = """
GRANT UPDATE, DELETE ON tenants_auditevent, tenants_organization TO maas_app;
GRANT UPDATE, DELETE ON tenants_auditevent TO maas_ops;
GRANT SELECT, UPDATE, DELETE ON tenants_recordchange TO maas_app;
"""

# Whoever takes over a request handler cannot make an operator, nor become one by changing an operator's login.
OPERATORS = """
CREATE FUNCTION tenants_keep_operators() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF current_user <> 'maas_app' THEN
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
  END IF;
  IF TG_OP = 'UPDATE' AND (OLD.is_staff OR OLD.is_superuser) THEN
    OLD.last_login := NEW.last_login;
    IF OLD IS NOT DISTINCT FROM NEW THEN
      RETURN NEW;
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    IF NOT (OLD.is_staff OR OLD.is_superuser) THEN
      RETURN OLD;
    END IF;
  ELSIF NOT (NEW.is_staff OR NEW.is_superuser) THEN
    RETURN NEW;
  END IF;
  RAISE insufficient_privilege USING MESSAGE = 'operators are made and changed as maas_ops: in the admin, or with --database ops';
END $$;
CREATE TRIGGER keep_operators BEFORE INSERT OR UPDATE OR DELETE ON tenants_user
  FOR EACH ROW EXECUTE FUNCTION tenants_keep_operators();
"""
OPERATORS_BACK = "DROP TRIGGER keep_operators ON tenants_user; DROP FUNCTION tenants_keep_operators();"

KEY_COLUMNS = """id uuid, public_id varchar, tenant_id uuid, slug varchar, mode varchar, hash bytea, pepper_version integer,
  scopes varchar[], models varchar[], expires_at timestamptz, is_active boolean,
  rate double precision, burst integer, concurrency integer, monthly_calls bigint,
  organization_rate double precision, organization_burst integer, organization_concurrency integer,
  organization_monthly_calls bigint, data_key_id uuid, data_key bytea"""

KEY_QUERY = """
SELECT k.id, k.public_id, k.tenant_id, o.slug, k.mode, k.hash, k.pepper_version, k.scopes, k.models, k.expires_at,
  k.revoked_at IS NULL AND o.is_active, k.rate, k.burst, k.concurrency, k.monthly_calls,
  o.rate, o.burst, o.concurrency, o.monthly_calls, d.id, d.wrapped
FROM public.tenants_apikey k
JOIN public.tenants_organization o ON o.id = k.tenant_id
LEFT JOIN public.tenants_datakey d ON d.tenant_id = k.tenant_id AND d.purpose = 'payload' AND d.retired_at IS NULL
WHERE k.public_id = wanted
"""

MEMBERSHIPS_QUERY = """
SELECT m.tenant_id, o.slug, o.name, m.role FROM public.tenants_membership m
JOIN public.tenants_organization o ON o.id = m.tenant_id
WHERE m.user_id = person AND o.is_active ORDER BY m.id
"""

INVITATION_QUERY = """
SELECT i.tenant_id, i.id FROM public.tenants_invitation i
JOIN public.tenants_organization o ON o.id = i.tenant_id
WHERE i.token_hash = wanted AND o.is_active AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > now()
"""

SLUG_QUERY = "SELECT EXISTS (SELECT FROM public.tenants_organization WHERE slug = wanted)"

DATA_KEY_QUERY = """
SELECT d.id, d.wrapped FROM public.tenants_datakey d
WHERE d.tenant_id = wanted AND d.purpose = 'payload' AND d.retired_at IS NULL
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]

    operations = [
        tenant_policy("tenants_organization", column="id"),
        tenant_policy("tenants_membership"),
        tenant_policy("tenants_invitation"),
        tenant_policy("tenants_apikey"),
        tenant_policy("tenants_datakey"),
        tenant_policy("tenants_auditevent"),
        tenant_key("tenants_apikey"),
        tenant_key("tenants_datakey"),
        tenant_reference("tenants_apikey", "replaces", "tenants_apikey"),
        door("tenants_key_by_public_id", "wanted text", f"TABLE ({KEY_COLUMNS})", KEY_QUERY),
        door("tenants_memberships_of", "person uuid", "TABLE (id uuid, slug varchar, name varchar, role varchar)", MEMBERSHIPS_QUERY),
        door("tenants_invitation_by_token", "wanted bytea", "TABLE (tenant_id uuid, id uuid)", INVITATION_QUERY),
        door("tenants_slug_is_taken", "wanted text", "boolean", SLUG_QUERY),
        door("tenants_current_data_key", "wanted uuid", "TABLE (id uuid, wrapped bytea)", DATA_KEY_QUERY),
        migrations.RunSQL(PRIVILEGES, PRIVILEGES_BACK),
        migrations.RunSQL(OPERATORS, OPERATORS_BACK),
    ]
