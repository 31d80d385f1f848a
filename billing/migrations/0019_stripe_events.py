"""The inbox of Stripe's events, and what a subscription knows of its own at Stripe. Code of before goes on beside both."""

import django.utils.timezone
from django.db import migrations, models

# It names customers of all organizations: requests meet it only as the operator, in the webhook.
CLOSED = "REVOKE ALL ON stripe_event_inbox FROM PUBLIC, maas_app, maas_door, maas_metering"


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_stripe_push")]

    operations = [
        migrations.CreateModel(
            name="StripeEvent",
            fields=[
                ("event_id", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("type", models.CharField(max_length=100)),
                ("object_kind", models.CharField(blank=True, max_length=100)),
                ("object_id", models.CharField(blank=True, max_length=255)),
                ("customer", models.CharField(blank=True, max_length=255)),
                ("is_thin", models.BooleanField(default=False)),
                (
                    "created_at",
                    models.DateTimeField(help_text="By Stripe's clock, in whole seconds: it orders nothing.", null=True),
                ),
                ("received_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("next_try_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("processed_at", models.DateTimeField(blank=True, null=True)),
                ("error", models.TextField(blank=True)),
            ],
            options={
                "db_table": "stripe_event_inbox",
                "indexes": [
                    models.Index(
                        condition=models.Q(("processed_at", None)), fields=["next_try_at"], name="stripe_event_waiting"
                    )
                ],
            },
        ),
        migrations.RunSQL(CLOSED, migrations.RunSQL.noop),
        migrations.AddField(
            "subscription",
            "stripe_status",
            models.CharField(blank=True, db_default="", default="", help_text="What Stripe says of it.", max_length=30),
        ),
        migrations.AddField(
            "subscription",
            "unpaid_since",
            models.DateTimeField(
                blank=True, help_text="Since when an invoice is open whose payment was refused.", null=True
            ),
        ),
    ]
