"""What a prediction costs, and the quote that it was promised. Defaults in the database: older code inserts without them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0006_turns_of_intake")]

    operations = [
        migrations.AddField("prediction", "quote", models.TextField(blank=True, db_default="")),
        migrations.AddField("prediction", "cost", models.CharField(blank=True, db_default="", max_length=40)),
    ]
