"""What grants have paid for calls that the ledger does not hold yet: it counts as settled where credit limits calls."""

from django.db import migrations, models

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"


def limits_of(ahead):
    return f"""
CREATE OR REPLACE FUNCTION limits_of(wanted uuid) RETURNS TABLE (version bigint, projected bigint, limits jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $door$
  WITH keys AS (
    SELECT k.id, replace(k.id::text, '-', '') AS hex, k.monthly_calls FROM public.tenants_apikey k
    WHERE k.tenant_id = wanted AND (k.revoked_at IS NULL OR k.revoked_at > now() - interval '1 hour')
  ), plan AS (
    SELECT v.included_calls, v.is_prepaid FROM public.subscription s JOIN public.plan_version v ON v.id = s.plan_version_id
    WHERE s.tenant_id = wanted AND s.ended_at IS NULL
  ), found (field, most) AS (
    SELECT 'limit:calls:month:', o.monthly_calls FROM public.tenants_organization o WHERE o.id = wanted
    UNION ALL SELECT 'limit:calls:month:' || hex, monthly_calls FROM keys
    UNION ALL SELECT 'limit:included:month:', included_calls FROM plan
    UNION ALL SELECT 'limit:nano:month:', b.amount_nano FROM public.budget b
              WHERE b.tenant_id = wanted AND b.api_key_id IS NULL
    UNION ALL SELECT 'limit:nano:month:' || hex, b.amount_nano FROM public.budget b JOIN keys ON keys.id = b.api_key_id
              WHERE b.tenant_id = wanted
    UNION ALL SELECT 'limit:nano:ever:',
                (SELECT coalesce(sum(c.spent_nano), 0)::bigint {ahead} FROM public.credit_month c WHERE c.tenant_id = wanted)
                + (SELECT coalesce(sum(g.remaining_nano), 0)::bigint FROM public.credit_grant g WHERE g.tenant_id = wanted)
              FROM plan WHERE is_prepaid
  )
  SELECT coalesce((SELECT q.version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         coalesce((SELECT q.projected_version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         coalesce((SELECT jsonb_object_agg(field, most) FROM found WHERE most IS NOT NULL), '{{}}'::jsonb)
  WHERE wanted = {TENANT} OR pg_has_role(session_user, 'maas_metering', 'USAGE')
$door$;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0032_credit_as_charged")]

    operations = [
        migrations.AddField(
            model_name="creditmonth", name="ahead_nano", field=models.BigIntegerField(db_default=0, default=0)
        ),
        migrations.RunSQL(
            "GRANT UPDATE (ahead_nano) ON credit_month TO maas_ops, maas_metering",
            "REVOKE UPDATE (ahead_nano) ON credit_month FROM maas_ops, maas_metering",
        ),
        migrations.RunSQL(limits_of("+ greatest(0, coalesce(sum(c.ahead_nano), 0))::bigint"), limits_of("")),
    ]
