"""Price version 0: every call costs nothing."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_ledger")]

    operations = [
        migrations.RunSQL(
            "INSERT INTO price_version (version, name, currency, created_at) VALUES (0, 'free', 'USD', now())",
            "DELETE FROM price_version WHERE version = 0",
        )
    ]
