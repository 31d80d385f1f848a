"""What each sealed hour is made of, by model and price: so that a bill can be looked into without reading its calls."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0020_see_own_due_hours")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE usage_seal ADD COLUMN by_price jsonb NOT NULL DEFAULT '[]'",
            "ALTER TABLE usage_seal DROP COLUMN by_price",
            state_operations=[migrations.AddField("usageseal", "by_price", models.JSONField(default=list))],
        )
    ]
