from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0005_prediction_keys")]

    operations = [
        migrations.AddField("modelversion", "examined_at", models.DateTimeField(blank=True, help_text="When its last examination began.", null=True)),
    ]
