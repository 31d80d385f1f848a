"""Operators' tasks may remove old comparisons of usage."""

from django.db import migrations

RIGHTS = "GRANT DELETE ON recon_run TO maas_ops"
NO_RIGHTS = "REVOKE DELETE ON recon_run FROM maas_ops"


class Migration(migrations.Migration):
    dependencies = [("billing", "0028_given_plans")]

    operations = [migrations.RunSQL(RIGHTS, NO_RIGHTS)]
