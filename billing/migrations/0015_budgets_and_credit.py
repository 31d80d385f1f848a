"""Budgets, credit and alerts: tables only."""

import django.db.models.deletion
import django.db.models.expressions
import django.utils.timezone
import saas.lib.ids
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0014_seals'),
        ('tenants', '0004_terms'),
    ]

    operations = [
        migrations.CreateModel(
            name='AlertFired',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('budget_id', models.UUIDField()),
                ('api_key_id', models.UUIDField(help_text="Empty: the organization's budget.", null=True)),
                ('period', models.CharField(max_length=7)),
                ('percent', models.PositiveSmallIntegerField()),
                ('amount_nano', models.BigIntegerField(help_text='The budget as it was then.')),
                ('spent_nano', models.BigIntegerField()),
                ('mailed_at', models.DateTimeField(help_text='Taken by the one who mails it.', null=True)),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'alert_fired',
                'indexes': [models.Index(fields=['organization', '-id'], name='alert_fired_newest'), models.Index(condition=models.Q(('mailed_at', None)), fields=['created_at'], name='alert_fired_to_mail')],
                'constraints': [models.UniqueConstraint(fields=('budget_id', 'period', 'percent'), name='alert_fired_once')],
            },
        ),
        migrations.CreateModel(
            name='Budget',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('amount_nano', models.BigIntegerField()),
                ('api_key', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.apikey')),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'budget',
                'constraints': [models.UniqueConstraint(fields=('organization', 'api_key'), name='budget_once', nulls_distinct=False), models.CheckConstraint(condition=models.Q(('amount_nano__range', (0, 9000000000000000))), name='budget_in_range')],
            },
        ),
        migrations.CreateModel(
            name='CreditGrant',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('amount_nano', models.BigIntegerField()),
                ('category', models.CharField(choices=[('promotional', 'Promotional'), ('paid', 'Paid')], max_length=12)),
                ('priority', models.IntegerField(default=100, help_text='Of two that expire together the lower one is used first.')),
                ('expires_at', models.DateTimeField(blank=True, help_text='Empty: never.', null=True)),
                ('payment_intent', models.CharField(blank=True, help_text="Stripe's id of the payment.", max_length=255, null=True, unique=True)),
                ('actor', models.CharField(editable=False, max_length=60)),
                ('reason', models.CharField(max_length=500)),
                ('remaining_nano', models.BigIntegerField(editable=False)),
                ('expired_nano', models.BigIntegerField(db_default=0, default=0, editable=False)),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'credit_grant',
                'indexes': [models.Index(condition=models.Q(('remaining_nano__gt', 0)), fields=['expires_at'], name='credit_grant_to_expire')],
                'constraints': [models.CheckConstraint(condition=models.Q(('amount_nano__range', (1, 9000000000000000))), name='credit_grant_in_range'), models.CheckConstraint(condition=models.Q(('expired_nano__gte', 0), ('remaining_nano__gte', 0), ('amount_nano__gte', django.db.models.expressions.CombinedExpression(models.F('remaining_nano'), '+', models.F('expired_nano')))), name='credit_grant_parts'), models.CheckConstraint(condition=models.Q(('category__in', ['promotional', 'paid'])), name='credit_grant_category')],
            },
        ),
        migrations.CreateModel(
            name='CreditMonth',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('period', models.CharField(max_length=7)),
                ('spent_nano', models.BigIntegerField(db_default=0, default=0)),
                ('burnt_nano', models.BigIntegerField(db_default=0, default=0)),
                ('overrun_nano', models.BigIntegerField(db_default=0, default=0)),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'credit_month',
                'constraints': [models.UniqueConstraint(fields=('organization', 'period'), name='credit_month_once'), models.CheckConstraint(condition=models.Q(('burnt_nano__gte', 0), ('overrun_nano__gte', 0), ('spent_nano__gte', django.db.models.expressions.CombinedExpression(models.F('burnt_nano'), '+', models.F('overrun_nano')))), name='credit_month_parts')],
            },
        ),
    ]
