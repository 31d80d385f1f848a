"""Usage told to Stripe, its comparisons, and invoices as read: the customers' rows, which only operators write."""

import django.db.models.deletion
import django.utils.timezone
import saas.lib.ids
from django.db import migrations, models


TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"
TABLES = ("stripe_push", "stripe_pushed", "recon_run", "invoice")
RULES = "".join(
    f"""
REVOKE ALL ON {table} FROM PUBLIC, maas_app, maas_ops, maas_door, maas_metering;
GRANT SELECT ON {table} TO maas_app;
GRANT SELECT, INSERT, UPDATE ON {table} TO maas_ops;
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_read ON {table} FOR SELECT TO maas_app USING (tenant_id = {TENANT});
"""
    for table in TABLES
)
NO_RULES = "".join(
    f"DROP POLICY tenant_read ON {table}; ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY; "
    f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"
    for table in TABLES
)

# For every role, also the owner: what may have been sent is never another thing than what will be sent again.
IMMUTABLE = """
REVOKE UPDATE ON recon_run FROM maas_ops;
CREATE FUNCTION keep_stripe_push() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (OLD.id, OLD.tenant_id, OLD.meter, OLD.hour, OLD.seq, OLD.period_start, OLD.told_at, OLD.nano, OLD.value, OLD.stripe_customer,
      OLD.stripe_subscription, OLD.identifier)
    IS DISTINCT FROM (NEW.id, NEW.tenant_id, NEW.meter, NEW.hour, NEW.seq, NEW.period_start, NEW.told_at, NEW.nano, NEW.value,
      NEW.stripe_customer, NEW.stripe_subscription, NEW.identifier)
    OR (OLD.first_sent_at IS NOT NULL AND NEW.first_sent_at IS DISTINCT FROM OLD.first_sent_at)
  THEN
    RAISE insufficient_privilege USING MESSAGE = 'what is told to Stripe is never changed: add a row with the difference';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER immutable BEFORE UPDATE ON stripe_push FOR EACH ROW EXECUTE FUNCTION keep_stripe_push();
"""
NOT_IMMUTABLE = "DROP TRIGGER immutable ON stripe_push; DROP FUNCTION keep_stripe_push();"


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0017_posts'),
        ('tenants', '0004_terms'),
    ]

    operations = [
        migrations.CreateModel(
            name='Invoice',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('stripe_invoice', models.CharField(max_length=255, unique=True)),
                ('stripe_customer', models.CharField(max_length=255)),
                ('stripe_subscription', models.CharField(blank=True, max_length=255)),
                ('number', models.CharField(blank=True, max_length=100)),
                ('status', models.CharField(max_length=20)),
                ('reason', models.CharField(blank=True, max_length=60)),
                ('currency', models.CharField(max_length=3)),
                ('total_minor', models.BigIntegerField()),
                ('due_minor', models.BigIntegerField()),
                ('paid_minor', models.BigIntegerField()),
                ('period_start', models.DateTimeField(blank=True, null=True)),
                ('period_end', models.DateTimeField(blank=True, null=True)),
                ('invoiced_at', models.DateTimeField(blank=True, null=True)),
                ('next_attempt_at', models.DateTimeField(blank=True, null=True)),
                ('hosted_url', models.CharField(blank=True, max_length=2000)),
                ('lines', models.JSONField(default=list)),
                ('read_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('settlement', models.CharField(choices=[('none', 'None'), ('waiting', 'Waiting'), ('mismatch', 'Mismatch'), ('settled', 'Settled')], default='none', max_length=10)),
                ('next_check_at', models.DateTimeField(blank=True, null=True)),
                ('deadline_at', models.DateTimeField(blank=True, help_text='When an operator is called if it is still held.', null=True)),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'invoice',
                'indexes': [models.Index(fields=['organization', '-invoiced_at'], name='invoice_newest'), models.Index(condition=models.Q(('next_check_at__isnull', False)), fields=['next_check_at'], name='invoice_to_check')],
                'constraints': [models.CheckConstraint(condition=models.Q(('settlement__in', ['none', 'waiting', 'mismatch', 'settled'])), name='invoice_settlement')],
            },
        ),
        migrations.CreateModel(
            name='ReconRun',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('meter', models.CharField(max_length=40)),
                ('stripe_subscription', models.CharField(max_length=255)),
                ('period_start', models.DateTimeField()),
                ('period_end', models.DateTimeField()),
                ('ledger', models.BigIntegerField()),
                ('pushed', models.BigIntegerField()),
                ('stripe', models.BigIntegerField()),
                ('draft', models.BigIntegerField(null=True)),
                ('verdict', models.CharField(choices=[('match', 'Match'), ('lag', 'Lag'), ('missing', 'Missing'), ('excess', 'Excess'), ('rejected', 'Rejected')], max_length=10)),
                ('hours', models.JSONField(default=list, help_text='The hours that differ, each with what is where.')),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'recon_run',
                'indexes': [models.Index(fields=['organization', '-created_at'], name='recon_run_newest')],
                'constraints': [models.CheckConstraint(condition=models.Q(('verdict__in', ['match', 'lag', 'missing', 'excess', 'rejected'])), name='recon_run_verdict')],
            },
        ),
        migrations.CreateModel(
            name='StripePush',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('meter', models.CharField(help_text="The meter's event name.", max_length=40)),
                ('hour', models.DateTimeField()),
                ('seq', models.PositiveIntegerField()),
                ('period_start', models.DateTimeField()),
                ('told_at', models.DateTimeField(help_text="The event's timestamp: in its hour, and in its period.")),
                ('nano', models.BigIntegerField()),
                ('value', models.BigIntegerField()),
                ('stripe_customer', models.CharField(max_length=255)),
                ('stripe_subscription', models.CharField(max_length=255)),
                ('identifier', models.CharField(max_length=100, unique=True)),
                ('state', models.CharField(choices=[('due', 'Due'), ('accepted', 'Accepted'), ('rejected', 'Rejected'), ('unclear', 'Unclear'), ('replaced', 'Replaced')], default='due', max_length=10)),
                ('first_sent_at', models.DateTimeField(blank=True, null=True)),
                ('last_sent_at', models.DateTimeField(blank=True, null=True)),
                ('accepted_at', models.DateTimeField(blank=True, null=True)),
                ('next_try_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('error', models.CharField(blank=True, max_length=500)),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'verbose_name_plural': 'stripe pushes',
                'db_table': 'stripe_push',
                'indexes': [models.Index(condition=models.Q(('state', 'due')), fields=['next_try_at'], name='stripe_push_due')],
                'constraints': [models.UniqueConstraint(fields=('organization', 'meter', 'hour', 'seq'), name='stripe_push_once'), models.CheckConstraint(condition=models.Q(('state__in', ['due', 'accepted', 'rejected', 'unclear', 'replaced'])), name='stripe_push_state'), models.CheckConstraint(condition=models.Q(('attempts', 0), ('first_sent_at__isnull', False), _connector='OR'), name='stripe_push_written_before_sent'), models.CheckConstraint(condition=models.Q(('value__gt', -1000000000000000), ('value__lt', 1000000000000000)), name='stripe_push_value_in_range')],
            },
        ),
        migrations.CreateModel(
            name='StripePushed',
            fields=[
                ('id', models.UUIDField(default=saas.lib.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('number', models.BigIntegerField()),
                ('organization', models.ForeignKey(db_column='tenant_id', editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenants.organization')),
            ],
            options={
                'db_table': 'stripe_pushed',
                'constraints': [models.UniqueConstraint(fields=('organization',), name='stripe_pushed_once')],
            },
        ),
        migrations.RunSQL(RULES + IMMUTABLE, NOT_IMMUTABLE + NO_RULES),
    ]
