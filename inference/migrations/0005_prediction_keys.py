from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0004_predictions_policies")]

    operations = [
        migrations.AddField("prediction", "idempotency_key", models.CharField(max_length=255, null=True)),
        migrations.AddField("prediction", "fingerprint", models.BinaryField(max_length=32, null=True)),
        migrations.AddIndex(
            "prediction",
            models.Index(fields=["created_at"], name="prediction_keyed", condition=models.Q(idempotency_key__isnull=False)),
        ),
        migrations.AddConstraint(
            "prediction",
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"],
                name="prediction_idempotency_key",
                condition=models.Q(idempotency_key__isnull=False),
            ),
        ),
    ]
