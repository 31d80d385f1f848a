"""A test's Idempotency-Key is another than the same one of a live key. Nothing here keeps predictions from being made meanwhile.

The new index comes before the old one goes, and asks less of the rows. An index that a broken attempt left unfinished is made anew.
"""

from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations, models


def replace(old: str, new: str, columns: str) -> list[str]:
    return [
        f"DROP INDEX CONCURRENTLY IF EXISTS {new}",
        f"CREATE UNIQUE INDEX CONCURRENTLY {new} ON inference_prediction ({columns}) WHERE idempotency_key IS NOT NULL",
        f"DROP INDEX CONCURRENTLY IF EXISTS {old}",
    ]


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("inference", "0013_modes_from_keys")]

    operations = [
        ValidateConstraint("prediction", "prediction_mode"),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    replace("prediction_idempotency_key", "prediction_key_of_mode", "tenant_id, mode, idempotency_key"),
                    replace("prediction_key_of_mode", "prediction_idempotency_key", "tenant_id, idempotency_key"),
                )
            ],
            state_operations=[
                migrations.RemoveConstraint("prediction", "prediction_idempotency_key"),
                migrations.AddConstraint(
                    "prediction",
                    models.UniqueConstraint(
                        fields=["organization", "mode", "idempotency_key"],
                        name="prediction_key_of_mode",
                        condition=models.Q(idempotency_key__isnull=False),
                    ),
                ),
            ],
        ),
    ]
