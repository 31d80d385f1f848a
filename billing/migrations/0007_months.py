"""Sums by key and month from the sums by scope. What an organization's keys do not explain, sessions without a key have used.

The bookkeeper must not run meanwhile: what an old one adds to the old sums is not in the new ones. Calls go on, and the journal
keeps them. The owner sees no row of a table with forced row-level security, so it is not forced on itself here.
"""

from django.db import migrations

COPY = """
ALTER TABLE usage_sum NO FORCE ROW LEVEL SECURITY;
ALTER TABLE usage_month NO FORCE ROW LEVEL SECURITY;
INSERT INTO usage_month (tenant_id, api_key_id, period, calls, amount_nano)
SELECT tenant_id, scope::uuid, period, calls, amount_nano FROM usage_sum WHERE scope <> 'organization' AND period <> 'ever';
INSERT INTO usage_month (tenant_id, api_key_id, period, calls, amount_nano)
SELECT whole.tenant_id, '00000000-0000-0000-0000-000000000000', whole.period, whole.calls - coalesce(sum(part.calls), 0),
  whole.amount_nano - coalesce(sum(part.amount_nano), 0)
FROM usage_sum whole LEFT JOIN usage_sum part
  ON part.tenant_id = whole.tenant_id AND part.period = whole.period AND part.scope <> 'organization'
WHERE whole.scope = 'organization' AND whole.period <> 'ever'
GROUP BY whole.tenant_id, whole.period, whole.calls, whole.amount_nano
HAVING whole.calls > coalesce(sum(part.calls), 0);
ALTER TABLE usage_sum FORCE ROW LEVEL SECURITY;
ALTER TABLE usage_month FORCE ROW LEVEL SECURITY;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0006_batches")]

    operations = [migrations.RunSQL(COPY, "TRUNCATE usage_month")]
