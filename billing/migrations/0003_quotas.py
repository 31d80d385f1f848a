"""Quotas: an outbox that the database itself fills, and the doors through which the bookkeeper reads and reports.

A change of a monthly number of calls raises its organization's version in the same transaction, so the order of versions is the
order of commits, and no crash between commit and projection loses a change.
"""

from django.db import migrations, models

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"


OUTBOX = f"""
REVOKE ALL ON quota_change FROM PUBLIC, maas_app, maas_ops, maas_door, maas_metering;
GRANT SELECT ON quota_change TO maas_app, maas_ops;
GRANT SELECT, INSERT, UPDATE ON quota_change TO maas_door;
GRANT SELECT, UPDATE (projected_version) ON quota_change TO maas_metering;
ALTER TABLE quota_change ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota_change FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_read ON quota_change FOR SELECT TO maas_app USING (tenant_id = {TENANT});
CREATE POLICY metering_select ON quota_change FOR SELECT TO maas_metering USING (true);
CREATE POLICY metering_update ON quota_change FOR UPDATE TO maas_metering USING (true);
CREATE INDEX quota_change_pending ON quota_change (tenant_id) WHERE projected_version < version;
"""

# The trigger runs for whoever changes a quota (a request, an operator), so it is a door too: it can only raise a version.
TRIGGERS = """
CREATE FUNCTION note_quota_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $door$
DECLARE
  tenant uuid := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END) ->> TG_ARGV[0];
BEGIN
  INSERT INTO public.quota_change AS q (tenant_id, version, projected_version) VALUES (tenant, 1, 0)
  ON CONFLICT (tenant_id) DO UPDATE SET version = q.version + 1;
  RETURN NULL;
END $door$;
ALTER FUNCTION note_quota_change() OWNER TO maas_door;
REVOKE ALL ON FUNCTION note_quota_change() FROM PUBLIC;

CREATE TRIGGER quota_set AFTER INSERT ON tenants_organization FOR EACH ROW
  WHEN (NEW.monthly_calls IS NOT NULL) EXECUTE FUNCTION note_quota_change('id');
CREATE TRIGGER quota_changed AFTER UPDATE ON tenants_organization FOR EACH ROW
  WHEN (NEW.monthly_calls IS DISTINCT FROM OLD.monthly_calls) EXECUTE FUNCTION note_quota_change('id');
CREATE TRIGGER quota_set AFTER INSERT ON tenants_apikey FOR EACH ROW
  WHEN (NEW.monthly_calls IS NOT NULL) EXECUTE FUNCTION note_quota_change('tenant_id');
CREATE TRIGGER quota_changed AFTER UPDATE ON tenants_apikey FOR EACH ROW
  WHEN (NEW.monthly_calls IS DISTINCT FROM OLD.monthly_calls) EXECUTE FUNCTION note_quota_change('tenant_id');
CREATE TRIGGER quota_removed AFTER DELETE ON tenants_apikey FOR EACH ROW
  WHEN (OLD.monthly_calls IS NOT NULL) EXECUTE FUNCTION note_quota_change('tenant_id');
"""
NO_TRIGGERS = """
DROP TRIGGER quota_removed ON tenants_apikey;
DROP TRIGGER quota_changed ON tenants_apikey;
DROP TRIGGER quota_set ON tenants_apikey;
DROP TRIGGER quota_changed ON tenants_organization;
DROP TRIGGER quota_set ON tenants_organization;
DROP FUNCTION note_quota_change();
"""

# Version and limits in one statement, that is in one snapshot: what is read belongs to that version.
QUOTA_OF = """
CREATE FUNCTION quota_of(wanted uuid) RETURNS TABLE (version bigint, projected bigint, organization_calls bigint, key_calls jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $door$
  SELECT coalesce((SELECT q.version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         coalesce((SELECT q.projected_version FROM public.quota_change q WHERE q.tenant_id = wanted), 0),
         (SELECT o.monthly_calls FROM public.tenants_organization o WHERE o.id = wanted),
         coalesce((SELECT jsonb_object_agg(replace(k.id::text, '-', ''), k.monthly_calls) FROM public.tenants_apikey k
                   WHERE k.tenant_id = wanted AND k.monthly_calls IS NOT NULL), '{}'::jsonb)
$door$;
ALTER FUNCTION quota_of(uuid) OWNER TO maas_door;
REVOKE ALL ON FUNCTION quota_of(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quota_of(uuid) TO maas_app, maas_metering;
"""

TOUCH = """
GRANT UPDATE (last_used_at) ON tenants_apikey TO maas_door;
CREATE FUNCTION touch_api_keys(keys uuid[], used timestamptz[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $door$
  UPDATE public.tenants_apikey k SET last_used_at = u.at FROM unnest(keys, used) AS u (id, at)
  WHERE k.id = u.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at)
$door$;
ALTER FUNCTION touch_api_keys(uuid[], timestamptz[]) OWNER TO maas_door;
REVOKE ALL ON FUNCTION touch_api_keys(uuid[], timestamptz[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touch_api_keys(uuid[], timestamptz[]) TO maas_metering;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_free"), ("tenants", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="QuotaChange",
            fields=[
                ("tenant_id", models.UUIDField(primary_key=True, serialize=False)),
                ("version", models.BigIntegerField()),
                ("projected_version", models.BigIntegerField(default=0)),
            ],
            options={"db_table": "quota_change"},
        ),
        migrations.RunSQL(OUTBOX, migrations.RunSQL.noop),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
        migrations.RunSQL(QUOTA_OF, "DROP FUNCTION quota_of(uuid)"),
        migrations.RunSQL(TOUCH, "DROP FUNCTION touch_api_keys(uuid[], timestamptz[])"),
    ]
