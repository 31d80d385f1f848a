from django.db import migrations, models
from django.db.models import Q

STATES = ["none", "waiting", "mismatch", "settled", "unbilled", "correcting", "corrected"]


class Migration(migrations.Migration):
    dependencies = [("billing", "0034_alerts_of_parts")]

    operations = [
        migrations.AddField(
            model_name="invoice",
            name="usage_units",
            field=models.BigIntegerField(help_text="What it bills together with its correction, if not its lines.", null=True),
        ),
        migrations.RemoveConstraint(model_name="invoice", name="invoice_settlement"),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(condition=Q(settlement__in=STATES), name="invoice_settlement"),
        ),
        migrations.AlterField(
            model_name="invoice",
            name="settlement",
            field=models.CharField(choices=[(name, name.title()) for name in STATES], default="none", max_length=10),
        ),
    ]
