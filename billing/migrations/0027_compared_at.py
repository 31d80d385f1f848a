"""When an organization's usage was compared with Stripe's last, so that all are in turn. Code of before goes on beside it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0026_alerts_of_more")]

    operations = [
        migrations.AddField("stripepushed", "compared_at", models.DateTimeField(null=True)),
        migrations.AddField(
            "stripepushed",
            "compared_whole_at",
            models.DateTimeField(help_text="The same, with each hour of the periods.", null=True),
        ),
    ]
