from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0033_charged_ahead")]

    operations = [
        migrations.AddField(
            model_name="subscription",
            name="used_before_nano",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="Of the month in which it began, what the ledger held until then."
            ),
        ),
        migrations.RemoveConstraint(model_name="alertfired", name="alert_fired_once"),
        migrations.AddConstraint(
            model_name="alertfired",
            constraint=models.UniqueConstraint(
                fields=["budget_id", "period", "percent", "amount_nano"], name="alert_fired_once"
            ),
        ),
    ]
