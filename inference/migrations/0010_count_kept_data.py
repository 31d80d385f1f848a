"""Count what was kept before it was counted. Meanwhile nothing is added."""

from django.db import migrations

# The role of the doors sees every organization; what it reads here, only a migration writes for it.
COUNT = """
LOCK TABLE inference_prediction, inference_storedanswer IN SHARE ROW EXCLUSIVE MODE;
GRANT INSERT, UPDATE ON inference_keptdata TO maas_door;
SET LOCAL ROLE maas_door;
INSERT INTO inference_keptdata (tenant_id, bytes)
SELECT tenant_id, sum(bytes) FROM (
  SELECT tenant_id, coalesce(octet_length(input), 0)::bigint + coalesce(octet_length(output), 0) AS bytes FROM inference_prediction
  WHERE data_removed_at IS NULL
  UNION ALL SELECT tenant_id, octet_length(sealed) FROM inference_storedanswer
) kept GROUP BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE SET bytes = EXCLUDED.bytes;
RESET ROLE;
REVOKE INSERT, UPDATE ON inference_keptdata FROM maas_door;
"""


class Migration(migrations.Migration):
    dependencies = [("inference", "0009_kept_data")]

    operations = [migrations.RunSQL(COUNT, migrations.RunSQL.noop)]
