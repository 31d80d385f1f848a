from django.db import migrations, models
from django.db.models import Q

NUMBERS = ("part_nano", "ended_nano", "asked_nano")
WRITTEN = ", ".join(("off_nano", "part_since", *NUMBERS))


class Migration(migrations.Migration):
    dependencies = [("billing", "0031_closing")]

    operations = [
        migrations.AddField(
            model_name="creditmonth",
            name="off_nano",
            field=models.BigIntegerField(help_text="Empty: as `burnt_nano`, of a time before there was this.", null=True),
        ),
        migrations.AddField(model_name="creditmonth", name="part_since", field=models.DateTimeField(null=True)),
        *[
            migrations.AddField(
                model_name="creditmonth", name=name, field=models.BigIntegerField(db_default=0, default=0)
            )
            for name in NUMBERS
        ],
        migrations.RemoveConstraint(model_name="creditmonth", name="credit_month_parts"),  # a rate may be more than the list price
        migrations.AddConstraint(
            model_name="creditmonth",
            constraint=models.CheckConstraint(
                condition=Q(spent_nano__gte=0, burnt_nano__gte=0, overrun_nano__gte=0), name="credit_month_not_negative"
            ),
        ),
        migrations.RunSQL(
            f"GRANT UPDATE ({WRITTEN}) ON credit_month TO maas_ops, maas_metering",
            f"REVOKE UPDATE ({WRITTEN}) ON credit_month FROM maas_ops, maas_metering",
        ),
    ]
