"""The plans to begin with, and a price of nothing for every model that the catalogue has already: it goes on being called."""

from django.db import migrations

PLANS = """
INSERT INTO plan (slug, name, is_public, created_at) VALUES
  ('free', 'Free', true, now()),
  ('pay-as-you-go', 'Pay as you go', true, now()),
  ('pro', 'Pro', true, now()),
  ('prepaid', 'Prepaid', true, now()),
  ('custom', 'Custom', false, now()),
  ('internal', 'Internal', false, now());
INSERT INTO plan_version (plan, version, currency, monthly_fee, included_calls, included_amount, overage, is_prepaid,
  rate, burst, concurrency, max_models, max_artifact_bytes, max_stored_bytes, retention_hours, starts_at, created_at, actor, reason)
SELECT plan, 1, 'USD', fee, calls, included, overage::jsonb, is_prepaid,
  rate, burst, concurrency, models, artifact, stored, hours, timestamptz '2020-01-01 00:00Z', now(), 'system', 'the first version'
FROM (VALUES
  ('free', 0, 10000, 0, '[{"up_to": null, "rate": "0"}]', false, 100, 200, 64, 100, 536870912, 21474836480, 24),
  ('pay-as-you-go', 0, NULL, 0, '[{"up_to": null, "rate": "1"}]', false, 200, 400, 128, 200, 1073741824, 42949672960, 168),
  ('pro', 99, NULL, 120, '[{"up_to": "1000", "rate": "0.90"}, {"up_to": null, "rate": "0.80"}]', false,
   1000, 2000, 512, 1000, 4294967296, 214748364800, 720),
  ('prepaid', 0, NULL, 0, '[{"up_to": null, "rate": "1"}]', true, 200, 400, 128, 200, 1073741824, 42949672960, 168),
  ('custom', 0, NULL, 0, '[{"up_to": null, "rate": "1"}]', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  ('internal', 0, NULL, 0, '[{"up_to": null, "rate": "0"}]', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
) AS v (plan, fee, calls, included, overage, is_prepaid, rate, burst, concurrency, models, artifact, stored, hours);
"""

# The role of the doors sees every model; it may write this one table for as long as this transaction lasts.
PRICES = """
GRANT INSERT ON price_version TO maas_door;
SET LOCAL ROLE maas_door;
INSERT INTO price_version (name, model_id, currency, call_price, row_price, second_price, starts_at, created_at, actor, reason)
SELECT 'catalog/' || name, id, 'USD', 0, 0, 0, timestamptz '2020-01-01 00:00Z', now(), 'system', 'priced when the price book began'
FROM inference_mlmodel WHERE visibility = 'public' AND deleted_at IS NULL ORDER BY id;
RESET ROLE;
REVOKE INSERT ON price_version FROM maas_door;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_price_book"), ("inference", "0002_policies")]

    operations = [migrations.RunSQL(PLANS, migrations.RunSQL.noop), migrations.RunSQL(PRICES, migrations.RunSQL.noop)]
