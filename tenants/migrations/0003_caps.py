"""Caps on what an organization can create: columns with defaults in the database too, so that older code goes on beside them."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0002_isolation"),
    ]

    operations = [
        migrations.AddField(
            model_name="organization",
            name="max_aliases_per_model",
            field=models.PositiveBigIntegerField(
                db_default=50,
                default=50,
                help_text="Aliases of one model.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_artifact_bytes",
            field=models.PositiveBigIntegerField(
                db_default=536870912,
                default=536870912,
                help_text="Bytes of one artifact; never more than ARTIFACT_MAX_BYTES.",
                validators=[django.core.validators.MinValueValidator(1)],
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_invitations",
            field=models.PositiveBigIntegerField(
                db_default=50,
                default=50,
                help_text="Open invitations.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_keys",
            field=models.PositiveBigIntegerField(
                db_default=100,
                default=100,
                help_text="API keys that are neither revoked nor expired.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_members",
            field=models.PositiveBigIntegerField(
                db_default=100, default=100, help_text="Members.", validators=[django.core.validators.MinValueValidator(1)]
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_models",
            field=models.PositiveBigIntegerField(
                db_default=100, default=100, help_text="Models.", validators=[django.core.validators.MinValueValidator(0)]
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_stored_bytes",
            field=models.PositiveBigIntegerField(
                db_default=21474836480,
                default=21474836480,
                help_text="Bytes of all artifacts together.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_validating",
            field=models.PositiveBigIntegerField(
                db_default=10,
                default=10,
                help_text="Versions in validation at once.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="max_versions_per_model",
            field=models.PositiveBigIntegerField(
                db_default=100,
                default=100,
                help_text="Versions of one model.",
                validators=[django.core.validators.MinValueValidator(0)],
            ),
        ),
        migrations.AddConstraint(
            model_name="organization",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("max_aliases_per_model__gte", 0),
                    ("max_artifact_bytes__gte", 1),
                    ("max_invitations__gte", 0),
                    ("max_keys__gte", 0),
                    ("max_members__gte", 1),
                    ("max_models__gte", 0),
                    ("max_stored_bytes__gte", 0),
                    ("max_validating__gte", 0),
                    ("max_versions_per_model__gte", 0),
                ),
                name="organization_caps_in_range",
            ),
        ),
    ]
