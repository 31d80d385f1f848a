"""When a subscription ends at Stripe, as long as that is only planned, and what follows it. Code of before goes on beside it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0024_stripe_attempts")]

    operations = [
        migrations.AddField(
            "subscription",
            "ends_at",
            models.DateTimeField(blank=True, help_text="When Stripe ends it, if that is so planned.", null=True),
        ),
        migrations.AddField(
            "subscription",
            "next_plan",
            models.CharField(
                blank=True, db_default="", default="", help_text="The plan then; empty: Free.", max_length=40
            ),
        ),
    ]
