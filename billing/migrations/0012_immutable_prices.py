"""Who may do what with prices, plans and subscriptions; what is for sale is never changed; nobody is without a plan."""

from django.db import migrations

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"
BOOKS = ("price_version", "plan", "plan_version")

PRIVILEGES = f"""
REVOKE ALL ON price_version, plan, plan_version, subscription FROM PUBLIC, maas_app, maas_ops, maas_door, maas_metering;
GRANT SELECT ON price_version, plan, plan_version, subscription TO maas_app, maas_ops, maas_door;
GRANT INSERT ON price_version, plan, plan_version TO maas_ops;
GRANT INSERT, UPDATE ON subscription TO maas_ops;
GRANT INSERT ON subscription TO maas_door;
GRANT SELECT ON price_version TO maas_metering;
ALTER TABLE price_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE price_version FORCE ROW LEVEL SECURITY;
CREATE POLICY everybodys_and_own ON price_version FOR SELECT TO maas_app USING (tenant_id IS NULL OR tenant_id = {TENANT});
CREATE POLICY metering_select ON price_version FOR SELECT TO maas_metering USING (true);
ALTER TABLE subscription ENABLE ROW LEVEL SECURITY;
ALTER TABLE subscription FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_read ON subscription FOR SELECT TO maas_app USING (tenant_id = {TENANT});
"""

# It holds for every role, also for the owner of the table.
IMMUTABLE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  RAISE insufficient_privilege USING MESSAGE = format('rows of %s are never changed or removed: add a later one', TG_TABLE_NAME);
END $$;
""" + "".join(
    f"""
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
    for table in BOOKS
)

# By trigger, because every way to make an organization must end here. The terms are set before, the row is made after: of two
# organizations that want one name, one is not inserted, and has no subscription either.
BIRTH = """
CREATE FUNCTION birth_plan(organization uuid) RETURNS plan_version LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT v FROM public.plan_version v
  WHERE v.plan = CASE WHEN organization = '00000000-0000-7000-8000-00000000ca7a' THEN 'internal' ELSE 'free' END
  AND v.starts_at <= now() ORDER BY v.starts_at DESC, v.version DESC LIMIT 1
$$;
CREATE FUNCTION set_first_terms() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  first public.plan_version := public.birth_plan(NEW.id);
BEGIN
  NEW.terms := jsonb_build_object('state', 'active', 'currency', first.currency, 'plan', first.plan);
  RETURN NEW;
END $$;
CREATE FUNCTION start_subscription() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $door$
BEGIN
  INSERT INTO public.subscription (id, tenant_id, created_at, plan_version_id, state, since, anchor, stripe_customer,
    stripe_subscription, actor, reason)
  VALUES (gen_random_uuid(), NEW.id, now(), (public.birth_plan(NEW.id)).id, 'active', now(), now(), '', '', 'system', '');
  RETURN NULL;
END $door$;
ALTER FUNCTION start_subscription() OWNER TO maas_door;
REVOKE ALL ON FUNCTION start_subscription() FROM PUBLIC;
CREATE TRIGGER first_terms BEFORE INSERT ON tenants_organization FOR EACH ROW EXECUTE FUNCTION set_first_terms();
CREATE TRIGGER first_subscription AFTER INSERT ON tenants_organization FOR EACH ROW EXECUTE FUNCTION start_subscription();
"""

BACK = """
DROP TRIGGER first_subscription ON tenants_organization;
DROP TRIGGER first_terms ON tenants_organization;
DROP FUNCTION start_subscription();
DROP FUNCTION set_first_terms();
DROP FUNCTION birth_plan(uuid);
""" + "".join(f"DROP TRIGGER immutable ON {table};" for table in BOOKS) + """
DROP FUNCTION refuse_change();
DROP POLICY tenant_read ON subscription;
ALTER TABLE subscription NO FORCE ROW LEVEL SECURITY;
ALTER TABLE subscription DISABLE ROW LEVEL SECURITY;
DROP POLICY metering_select ON price_version;
DROP POLICY everybodys_and_own ON price_version;
ALTER TABLE price_version NO FORCE ROW LEVEL SECURITY;
ALTER TABLE price_version DISABLE ROW LEVEL SECURITY;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0011_plans_for_sale")]

    operations = [migrations.RunSQL(PRIVILEGES + IMMUTABLE + BIRTH, BACK)]
