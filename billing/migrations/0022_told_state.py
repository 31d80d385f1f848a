"""Which state of the account its owners were told last. Code of before goes on beside it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0021_seals_by_price")]

    operations = [
        migrations.AddField(
            "subscription",
            "told_state",
            models.CharField(
                blank=True, db_default="", default="", help_text="Of which its owners were told last.", max_length=12
            ),
        )
    ]
