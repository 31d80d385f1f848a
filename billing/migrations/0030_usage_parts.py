from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0029_old_comparisons")]

    operations = [
        migrations.AddField(
            model_name="invoice",
            name="usage_parts",
            field=models.JSONField(help_text="How its usage was rated, by plan (usage_charge).", null=True),
        ),
    ]
