"""Short examinations come before long ones, in turns by what was used. Defaults in the database: older code inserts without them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0010_count_kept_data")]

    operations = [
        migrations.AddField(
            "modelversion",
            "examined_seconds",
            models.FloatField(db_default=0.0, help_text="How long its examinations took, all together."),
        ),
        migrations.AddField(
            "modelversion",
            "needs_long",
            models.BooleanField(db_default=False, help_text="Its short examination did not end; a long one is due."),
        ),
    ]
