"""Say of the predictions that are there which ones test keys made. Only those rows are locked."""

from django.db import migrations

# The role of the doors sees every organization; what it writes here, only a migration writes for it.
TELL = """
GRANT UPDATE (mode) ON inference_prediction TO maas_door;
SET LOCAL ROLE maas_door;
UPDATE inference_prediction p SET mode = 'test' FROM tenants_apikey k
WHERE k.id = p.key_id AND k.tenant_id = p.tenant_id AND k.mode = 'test' AND p.mode <> 'test';
RESET ROLE;
REVOKE UPDATE (mode) ON inference_prediction FROM maas_door;
"""


class Migration(migrations.Migration):
    dependencies = [("inference", "0012_mode_of_a_prediction"), ("tenants", "0006_data_bytes")]

    operations = [migrations.RunSQL(TELL, migrations.RunSQL.noop)]
