"""Who is there already goes on as before: on Custom, which keeps the limits that operators gave; the demo has no caps."""

from django.db import migrations

# The role of the doors sees every organization, and may insert.
FIRST = """
SET LOCAL ROLE maas_door;
INSERT INTO subscription (id, tenant_id, created_at, plan_version_id, state, since, anchor, stripe_customer, stripe_subscription,
  actor, reason)
SELECT gen_random_uuid(), o.id, now(), v.id, 'active', now(), now(), '', '', 'system', 'was there before there were plans'
FROM tenants_organization o JOIN plan_version v
  ON v.version = 1 AND v.plan = CASE WHEN o.slug IN ('demo', 'catalog') THEN 'internal' ELSE 'custom' END
WHERE NOT EXISTS (SELECT FROM subscription s WHERE s.tenant_id = o.id);
RESET ROLE;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0012_immutable_prices")]

    operations = [migrations.RunSQL(FIRST, migrations.RunSQL.noop)]
