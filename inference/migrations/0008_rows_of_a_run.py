"""How many rows intake tried together. Versions from before were tried with up to 32; a default, so that older code inserts."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0007_price_of_a_prediction")]

    operations = [
        migrations.AddField(
            "modelversion",
            "max_batch_rows",
            models.PositiveIntegerField(
                db_default=32, help_text="Rows of different calls in one run at most: intake tried no more of them together."
            ),
        ),
        migrations.AlterField(
            "modelversion", "is_batchable", models.BooleanField(default=False, help_text="And its rows were found independent.")
        ),
    ]
