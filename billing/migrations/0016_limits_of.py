"""Who may do what with budgets and credit, and the door through which all limits of an organization are read, with their version.

A change of a budget, of credit or of the plan raises the same version as a change of a quota does.
"""

from django.db import migrations

from saas.lib.rls import tenant_policy, tenant_reference

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"


def read_only(table):
    """The application reads its tenant's rows."""
    return f"""
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
    CREATE POLICY tenant_read ON {table} FOR SELECT TO maas_app USING (tenant_id = {TENANT});
    REVOKE ALL ON {table} FROM maas_app, maas_ops;
    GRANT SELECT ON {table} TO maas_app, maas_ops;
    """


PRIVILEGES = f"""
GRANT SELECT ON budget TO maas_metering;
CREATE POLICY metering_select ON budget FOR SELECT TO maas_metering USING (true);
GRANT SELECT ON subscription, plan_version TO maas_metering;
CREATE POLICY metering_select ON subscription FOR SELECT TO maas_metering USING (true);

{read_only("credit_grant")}
GRANT INSERT, UPDATE (expires_at, remaining_nano, expired_nano) ON credit_grant TO maas_ops;
GRANT SELECT, UPDATE (remaining_nano, expired_nano) ON credit_grant TO maas_metering;
CREATE POLICY metering_select ON credit_grant FOR SELECT TO maas_metering USING (true);
CREATE POLICY metering_update ON credit_grant FOR UPDATE TO maas_metering USING (true);

{read_only("credit_month")}
GRANT INSERT, UPDATE (spent_nano, burnt_nano, overrun_nano) ON credit_month TO maas_ops, maas_metering;
GRANT SELECT ON credit_month TO maas_metering;
CREATE POLICY metering_select ON credit_month FOR SELECT TO maas_metering USING (true);
CREATE POLICY metering_insert ON credit_month FOR INSERT TO maas_metering WITH CHECK (true);
CREATE POLICY metering_update ON credit_month FOR UPDATE TO maas_metering USING (true);

{read_only("alert_fired")}
GRANT UPDATE (mailed_at) ON alert_fired TO maas_ops;
GRANT SELECT, INSERT ON alert_fired TO maas_metering;
CREATE POLICY metering_select ON alert_fired FOR SELECT TO maas_metering USING (true);
CREATE POLICY metering_insert ON alert_fired FOR INSERT TO maas_metering WITH CHECK (true);
"""
NO_PRIVILEGES = """
REVOKE ALL ON subscription, plan_version FROM maas_metering;
DROP POLICY metering_select ON subscription;
"""

TRIGGERS = """
CREATE TRIGGER limit_set AFTER INSERT OR DELETE ON budget FOR EACH ROW EXECUTE FUNCTION note_quota_change('tenant_id');
CREATE TRIGGER limit_changed AFTER UPDATE ON budget FOR EACH ROW
  WHEN (NEW.amount_nano IS DISTINCT FROM OLD.amount_nano) EXECUTE FUNCTION note_quota_change('tenant_id');
CREATE TRIGGER limit_set AFTER INSERT ON credit_grant FOR EACH ROW EXECUTE FUNCTION note_quota_change('tenant_id');
CREATE TRIGGER limit_changed AFTER UPDATE ON credit_grant FOR EACH ROW
  WHEN (NEW.expired_nano IS DISTINCT FROM OLD.expired_nano) EXECUTE FUNCTION note_quota_change('tenant_id');
CREATE TRIGGER limit_changed AFTER UPDATE ON subscription FOR EACH ROW
  WHEN (NEW.ended_at IS DISTINCT FROM OLD.ended_at) EXECUTE FUNCTION note_quota_change('tenant_id');
"""

# Version and limits in one statement, that is in one snapshot: what is read belongs to that version. Limits are named as fields of
# accounts. Credit counts from all that was charged to it: what is spent and what remains of it change together.
LIMITS_OF = f"""
CREATE FUNCTION limits_of(wanted uuid) RETURNS TABLE (version bigint, projected bigint, limits jsonb)
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
                (SELECT coalesce(sum(c.spent_nano), 0)::bigint FROM public.credit_month c WHERE c.tenant_id = wanted)
                + (SELECT coalesce(sum(g.remaining_nano), 0)::bigint FROM public.credit_grant g WHERE g.tenant_id = wanted)
              FROM plan WHERE is_prepaid
  )
  SELECT coalesce((SELECT q.version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         coalesce((SELECT q.projected_version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         coalesce((SELECT jsonb_object_agg(field, most) FROM found WHERE most IS NOT NULL), '{{}}'::jsonb)
  WHERE wanted = {TENANT} OR pg_has_role(session_user, 'maas_metering', 'USAGE')
$door$;
ALTER FUNCTION limits_of(uuid) OWNER TO maas_door;
REVOKE ALL ON FUNCTION limits_of(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION limits_of(uuid) TO maas_app, maas_metering;
"""

# The terms that an organization is born with say whether its plan has a cap.
FIRST_TERMS = """
CREATE OR REPLACE FUNCTION set_first_terms() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  first public.plan_version := public.birth_plan(NEW.id);
BEGIN
  NEW.terms := jsonb_build_object('state', 'active', 'currency', first.currency, 'plan', first.plan,
    'is_capped', first.is_prepaid OR first.included_calls IS NOT NULL);
  RETURN NEW;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_budgets_and_credit")]

    operations = [
        tenant_policy("budget"),
        tenant_reference("budget", "api_key_id", "tenants_apikey", on_delete="CASCADE"),
        migrations.RunSQL(PRIVILEGES, NO_PRIVILEGES),
        migrations.RunSQL(
            TRIGGERS,
            """
            DROP TRIGGER limit_changed ON subscription; DROP TRIGGER limit_changed ON credit_grant;
            DROP TRIGGER limit_set ON credit_grant; DROP TRIGGER limit_changed ON budget; DROP TRIGGER limit_set ON budget;
            """,
        ),
        migrations.RunSQL(LIMITS_OF, "DROP FUNCTION limits_of(uuid)"),
        migrations.RunSQL(FIRST_TERMS, migrations.RunSQL.noop),
    ]
