from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0030_usage_parts")]

    operations = [
        migrations.AddField(
            model_name="subscription",
            name="closing_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When to look whether all its usage is invoiced, after it has ended at Stripe.",
                null=True,
            ),
        ),
        migrations.AddIndex(
            model_name="subscription",
            index=models.Index(
                condition=models.Q(("closing_at__isnull", False)), fields=["closing_at"], name="subscription_closing"
            ),
        ),
    ]
