"""The operators' page of limits: a view of organizations, without a table."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0003_quotas'),
        ('tenants', '0003_caps'),
    ]

    operations = [
        migrations.CreateModel(
            name='OrganizationLimits',
            fields=[
            ],
            options={
                'verbose_name': 'limits of an organization',
                'verbose_name_plural': 'limits of organizations',
                'proxy': True,
                'indexes': [],
                'constraints': [],
            },
            bases=('tenants.organization',),
        ),
    ]
