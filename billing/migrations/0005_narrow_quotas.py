"""The door to quotas gives the application those of its own tenant only, and leaves out keys that are long revoked.

Who is not the tenant gets no row: code of before, which asks without one, then leaves the projection to the bookkeeper.
"""

from django.db import migrations

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"

# A revoked key's number stays for an hour, until no gateway and no call under way can know the key any more.
QUOTA_OF = """
CREATE OR REPLACE FUNCTION quota_of(wanted uuid)
RETURNS TABLE (version bigint, projected bigint, organization_calls bigint, key_calls jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $door$
  SELECT coalesce((SELECT q.version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         coalesce((SELECT q.projected_version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         (SELECT o.monthly_calls FROM public.tenants_organization o WHERE o.id = wanted),
         coalesce((SELECT jsonb_object_agg(replace(k.id::text, '-', ''), k.monthly_calls) FROM public.tenants_apikey k
                   WHERE k.tenant_id = wanted AND k.monthly_calls IS NOT NULL{keys}), '{{}}'::jsonb){rows}
$door$;
"""
NARROW = QUOTA_OF.format(
    keys="\n                   AND (k.revoked_at IS NULL OR k.revoked_at > now() - interval '1 hour')",
    rows=f"\n  WHERE wanted = {TENANT} OR pg_has_role(session_user, 'maas_metering', 'USAGE')",
)
WIDE = QUOTA_OF.format(keys="", rows="")


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_organization_limits")]

    operations = [migrations.RunSQL(NARROW, WIDE)]
