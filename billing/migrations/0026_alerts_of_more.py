"""Alerts of what plans include and of credit, and who is mailing what until when. Code of before goes on beside it."""

from django.db import migrations, models

RIGHTS = "GRANT UPDATE (claimed_until) ON alert_fired TO maas_ops"


class Migration(migrations.Migration):
    dependencies = [("billing", "0025_end_of_subscription")]

    operations = [
        migrations.AddField(
            "alertfired",
            "about",
            models.CharField(
                choices=[
                    ("budget", "Budget"),
                    ("included_calls", "Included Calls"),
                    ("included_amount", "Included Amount"),
                    ("credit", "Credit"),
                ],
                db_default="budget",
                default="budget",
                max_length=16,
            ),
        ),
        migrations.AddField(
            "alertfired",
            "claimed_until",
            models.DateTimeField(help_text="Somebody is mailing it, as long.", null=True),
        ),
        migrations.AlterField(
            "alertfired",
            "budget_id",
            models.UUIDField(help_text="Of the budget, the subscription with what its plan includes, or the newest grant."),
        ),
        migrations.AlterField(
            "alertfired",
            "amount_nano",
            models.BigIntegerField(help_text="Of how much, as it was then; of included calls their number."),
        ),
        migrations.AlterField("alertfired", "mailed_at", models.DateTimeField(null=True)),
        migrations.AddField(
            "creditgrant",
            "balance_nano",
            models.BigIntegerField(
                editable=False, help_text="What was left of all grants when this one was added.", null=True
            ),
        ),
        migrations.AddField(
            "subscription",
            "telling_until",
            models.DateTimeField(blank=True, help_text="Somebody is mailing its state, as long.", null=True),
        ),
        migrations.AddField(
            "subscription",
            "told_count",
            models.PositiveIntegerField(db_default=0, default=0, help_text="Mails about its states until now."),
        ),
        migrations.RunSQL(RIGHTS, migrations.RunSQL.noop),
    ]
