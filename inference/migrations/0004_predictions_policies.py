from django.db import migrations

from saas.lib.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("inference", "0003_predictions")]

    operations = [tenant_policy("inference_prediction"), tenant_policy("inference_storedanswer")]
