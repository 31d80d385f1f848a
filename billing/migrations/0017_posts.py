"""Answers of POSTs with an Idempotency-Key."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import saas.lib.ids
from saas.lib.rls import tenant_policy


class Migration(migrations.Migration):
    dependencies = [("billing", "0016_limits_of")]

    operations = [
        migrations.CreateModel(
            name="Post",
            fields=[
                ("id", models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("key", models.CharField(max_length=255)),
                ("fingerprint", models.BinaryField(max_length=32)),
                ("status", models.PositiveSmallIntegerField(null=True)),
                ("body", models.TextField(blank=True)),
                (
                    "organization",
                    models.ForeignKey(
                        db_column="tenant_id",
                        editable=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
            ],
            options={"db_table": "billing_post"},
        ),
        migrations.AddIndex("post", models.Index(fields=["created_at"], name="billing_post_age")),
        migrations.AddConstraint("post", models.UniqueConstraint(fields=("organization", "key"), name="billing_post_once")),
        tenant_policy("billing_post"),
    ]
