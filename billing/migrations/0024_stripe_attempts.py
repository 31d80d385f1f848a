"""Under which key an object is asked for of Stripe once it has answered 500 for one. A table of its own."""

from django.db import migrations, models

# It names requests of all organizations: they meet it only as the operator.
CLOSED = "REVOKE ALL ON stripe_attempt FROM PUBLIC, maas_app, maas_door, maas_metering"


class Migration(migrations.Migration):
    dependencies = [("billing", "0023_no_quota_of")]

    operations = [
        migrations.CreateModel(
            name="StripeAttempt",
            fields=[
                ("key", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("attempt", models.PositiveIntegerField()),
                ("at", models.DateTimeField()),
            ],
            options={"db_table": "stripe_attempt"},
        ),
        migrations.RunSQL(CLOSED, migrations.RunSQL.noop),
    ]
