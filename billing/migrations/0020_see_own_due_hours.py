"""An organization may see which of its hours wait for their seal, as it sees all that is its own."""

from django.db import migrations

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"


class Migration(migrations.Migration):
    dependencies = [("billing", "0019_stripe_events")]

    operations = [
        migrations.RunSQL(
            f"""
            GRANT SELECT ON seal_due TO maas_app;
            CREATE POLICY tenant_read ON seal_due FOR SELECT TO maas_app USING (tenant_id = {TENANT});
            """,
            "DROP POLICY tenant_read ON seal_due; REVOKE SELECT ON seal_due FROM maas_app",
        )
    ]
