"""Plans that operators give wait to be put into force at Stripe. Code of before goes on beside it."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0027_compared_at")]

    operations = [
        migrations.AddField(
            "subscription",
            "stripe_due_at",
            models.DateTimeField(
                blank=True, help_text="When it is to be put into force at Stripe; empty: there is nothing to do.", null=True
            ),
        ),
        migrations.AddField("subscription", "stripe_tries", models.PositiveIntegerField(db_default=0, default=0)),
        migrations.AddField(
            "subscription", "stripe_error", models.CharField(blank=True, db_default="", default="", max_length=500)
        ),
        migrations.AddIndex(
            "subscription",
            models.Index(
                fields=["stripe_due_at"], condition=Q(stripe_due_at__isnull=False), name="subscription_to_stripe"
            ),
        ),
    ]
