"""A cap on the bytes of inputs and answers that are kept, with a default in the database too."""

import django.core.validators
from django.db import migrations, models

IN_RANGE = [
    ("max_aliases_per_model__gte", 0),
    ("max_artifact_bytes__gte", 1),
    ("max_data_bytes__gte", 0),
    ("max_invitations__gte", 0),
    ("max_keys__gte", 0),
    ("max_members__gte", 1),
    ("max_models__gte", 0),
    ("max_stored_bytes__gte", 0),
    ("max_validating__gte", 0),
    ("max_versions_per_model__gte", 0),
]


class Migration(migrations.Migration):
    dependencies = [("tenants", "0005_hashed_sessions")]

    operations = [
        migrations.AddField(
            "organization",
            "max_data_bytes",
            models.PositiveBigIntegerField(
                db_default=1 << 30,
                default=1 << 30,
                help_text="Bytes of kept inputs and answers: of predictions, and for Idempotency-Keys.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.RemoveConstraint("organization", "organization_caps_in_range"),
        migrations.AddConstraint(
            "organization",
            models.CheckConstraint(
                condition=models.Q(*IN_RANGE), name="organization_caps_in_range"
            ),
        ),
    ]
