"""Whether a live or a test key made a prediction. A default in the database: older code inserts without it.

What older code makes with test keys, until it is gone, counts as live, so test keys do not see it. The check of rows that are there is
left to 0014: it reads the whole table.
"""

from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0011_short_examinations")]

    operations = [
        migrations.AddField(
            "prediction",
            "mode",
            models.CharField(choices=[("live", "Live"), ("test", "Test")], db_default="live", max_length=4),
        ),
        AddConstraintNotValid(
            "prediction", models.CheckConstraint(condition=models.Q(mode__in=["live", "test"]), name="prediction_mode")
        ),
    ]
