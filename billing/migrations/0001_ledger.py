"""The ledger: a table partitioned by day, its sums, the drain's position, and who may do what with them.

Grants are on parents only: a role that is granted a partition directly would see every tenant in it.
"""

from django.db import migrations, models

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"

USAGE_EVENT = """
CREATE TABLE usage_event (
  day date NOT NULL,
  call_id uuid NOT NULL,
  seq smallint NOT NULL DEFAULT 0,
  tenant_id uuid NOT NULL,
  api_key_id uuid NOT NULL,
  model_id uuid NOT NULL,
  version_id uuid NOT NULL,
  model_name text NOT NULL,
  version_number text NOT NULL,
  endpoint text NOT NULL,
  mode text NOT NULL CHECK (mode IN ('live', 'test')),
  kind text NOT NULL CHECK (kind IN ('usage', 'reversed')),
  period char(7) NOT NULL CHECK (period ~ '^[0-9]{4}-[0-9]{2}$'),
  rows bigint NOT NULL CHECK (rows >= 0),
  bytes_in bigint NOT NULL CHECK (bytes_in >= 0),
  bytes_out bigint NOT NULL CHECK (bytes_out >= 0),
  queue_us bigint NOT NULL CHECK (queue_us >= 0),
  compute_us bigint NOT NULL CHECK (compute_us >= 0),
  price_version integer NOT NULL,
  amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 0 AND 9007199254740991),
  currency char(3) NOT NULL,
  is_clamped boolean NOT NULL,
  request_id text NOT NULL,
  opened_at timestamptz NOT NULL,
  closed_at timestamptz NOT NULL,
  stream_id text NOT NULL,
  CHECK (kind = 'usage' OR amount_nano = 0),
  PRIMARY KEY (day, call_id, seq)
) PARTITION BY RANGE (day);
CREATE INDEX usage_event_tenant ON usage_event (tenant_id, call_id);
"""

# The drain may add days and do nothing else to the schema. The new table is attached, not created as a partition: that takes
# a lock which readers and writers of the other days do not notice. As the owner's table it would come with the owner's default
# grants: they are taken away before anybody can see it.
ENSURE_PARTITION = """
CREATE FUNCTION ensure_usage_partition(wanted date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $door$
DECLARE
  part text := 'usage_event_' || to_char(wanted, 'YYYYMMDD');
BEGIN
  IF EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'public.usage_event'::regclass
             AND inhrelid = to_regclass('public.' || part)) THEN
    RETURN;
  END IF;
  IF wanted NOT BETWEEN date '2020-01-01' AND (now() AT TIME ZONE 'UTC')::date + 400 THEN
    RAISE EXCEPTION 'no call can have been opened on %', wanted USING ERRCODE = 'datetime_field_overflow';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('ensure_usage_partition'));
  IF to_regclass('public.' || part) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE public.%I (LIKE public.usage_event INCLUDING ALL)', part);
  EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, maas_app, maas_ops, maas_metering, maas_door', part);
  EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', part);
  EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', part);
  EXECUTE format('ALTER TABLE public.usage_event ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', part, wanted, wanted + 1);
END $door$;
REVOKE ALL ON FUNCTION ensure_usage_partition(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_usage_partition(date) TO maas_metering;
"""


def metering_table(table, *, verbs, tenant=True):
    """Row-level security FORCEd; the application reads its tenant's rows; `maas_metering` may `verbs`, on all."""
    rules = [
        f"REVOKE ALL ON {table} FROM PUBLIC, maas_app, maas_ops, maas_door, maas_metering",
        f"GRANT SELECT ON {table} TO maas_ops",
        f"GRANT {', '.join(verbs)} ON {table} TO maas_metering",
    ]
    if tenant:
        rules += [
            f"GRANT SELECT ON {table} TO maas_app",
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY tenant_read ON {table} FOR SELECT TO maas_app USING (tenant_id = {TENANT})",
        ]
        for verb in verbs:
            clause = "WITH CHECK (true)" if verb == "INSERT" else "USING (true)"
            rules.append(f"CREATE POLICY metering_{verb.lower()} ON {table} FOR {verb} TO maas_metering {clause}")
    return migrations.RunSQL(";\n".join(rules), migrations.RunSQL.noop)


class Migration(migrations.Migration):
    initial = True
    dependencies = []

    operations = [
        migrations.RunSQL(USAGE_EVENT, "DROP TABLE usage_event"),
        migrations.RunSQL(ENSURE_PARTITION, "DROP FUNCTION ensure_usage_partition(date)"),
        migrations.CreateModel(
            name="UsageEvent",
            fields=[
                ("day", models.DateField()),
                ("call_id", models.UUIDField(primary_key=True, serialize=False)),
                ("seq", models.SmallIntegerField(default=0)),
                ("tenant_id", models.UUIDField()),
                ("api_key_id", models.UUIDField()),
                ("model_id", models.UUIDField()),
                ("version_id", models.UUIDField()),
                ("model_name", models.TextField()),
                ("version_number", models.TextField()),
                ("endpoint", models.TextField()),
                ("mode", models.TextField()),
                ("kind", models.TextField()),
                ("period", models.CharField(max_length=7)),
                ("rows", models.BigIntegerField()),
                ("bytes_in", models.BigIntegerField()),
                ("bytes_out", models.BigIntegerField()),
                ("queue_us", models.BigIntegerField()),
                ("compute_us", models.BigIntegerField()),
                ("price_version", models.IntegerField()),
                ("amount_nano", models.BigIntegerField()),
                ("currency", models.CharField(max_length=3)),
                ("is_clamped", models.BooleanField()),
                ("request_id", models.TextField()),
                ("opened_at", models.DateTimeField()),
                ("closed_at", models.DateTimeField()),
                ("stream_id", models.TextField()),
            ],
            options={"db_table": "usage_event", "managed": False, "verbose_name": "call"},
        ),
        migrations.CreateModel(
            name="UsageHour",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("tenant_id", models.UUIDField()),
                ("api_key_id", models.UUIDField()),
                ("model_id", models.UUIDField()),
                ("version_id", models.UUIDField()),
                ("mode", models.TextField()),
                ("hour", models.DateTimeField()),
                ("currency", models.CharField(max_length=3)),
                ("model_name", models.TextField()),
                ("version_number", models.TextField()),
                ("calls", models.BigIntegerField()),
                ("reversed", models.BigIntegerField()),
                ("rows", models.BigIntegerField()),
                ("bytes_in", models.BigIntegerField()),
                ("bytes_out", models.BigIntegerField()),
                ("queue_us", models.BigIntegerField()),
                ("compute_us", models.BigIntegerField()),
                ("total_ms", models.BigIntegerField()),
                ("amount_nano", models.BigIntegerField()),
            ],
            options={"db_table": "usage_hour"},
        ),
        migrations.AddConstraint(
            model_name="usagehour",
            constraint=models.UniqueConstraint(
                fields=["tenant_id", "hour", "api_key_id", "model_id", "version_id", "mode", "currency"], name="usage_hour_key"
            ),
        ),
        migrations.CreateModel(
            name="UsageSum",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("tenant_id", models.UUIDField()),
                ("scope", models.CharField(max_length=32)),
                ("period", models.CharField(max_length=7)),
                ("calls", models.BigIntegerField()),
                ("amount_nano", models.BigIntegerField()),
            ],
            options={"db_table": "usage_sum"},
        ),
        migrations.AddConstraint(
            model_name="usagesum",
            constraint=models.UniqueConstraint(fields=["tenant_id", "scope", "period"], name="usage_sum_key"),
        ),
        migrations.CreateModel(
            name="JournalPosition",
            fields=[
                ("stream", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("position", models.CharField(max_length=41)),
                ("updated_at", models.DateTimeField()),
            ],
            options={"db_table": "journal_position"},
        ),
        migrations.CreateModel(
            name="JournalQuarantine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("stream", models.CharField(max_length=100)),
                ("stream_id", models.CharField(max_length=41)),
                ("number", models.IntegerField(help_text="Place of the record in its stream entry, from 0.")),
                ("raw", models.BinaryField()),
                ("error", models.TextField()),
                ("created_at", models.DateTimeField()),
                ("resolved_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={"db_table": "journal_quarantine"},
        ),
        migrations.AddConstraint(
            model_name="journalquarantine",
            constraint=models.UniqueConstraint(fields=["stream", "stream_id", "number"], name="journal_quarantine_key"),
        ),
        migrations.CreateModel(
            name="PriceVersion",
            fields=[
                ("version", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=100)),
                ("currency", models.CharField(max_length=3)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={"db_table": "price_version"},
        ),
        metering_table("usage_event", verbs=["SELECT", "INSERT"]),
        metering_table("usage_hour", verbs=["SELECT", "INSERT", "UPDATE"]),
        metering_table("usage_sum", verbs=["SELECT", "INSERT", "UPDATE"]),
        metering_table("journal_position", verbs=["SELECT", "INSERT", "UPDATE"], tenant=False),
        metering_table("journal_quarantine", verbs=["SELECT", "INSERT"], tenant=False),
        metering_table("price_version", verbs=["SELECT"], tenant=False),
        migrations.RunSQL(
            """
            ALTER TABLE usage_hour ADD CHECK (calls >= 0 AND amount_nano >= 0);
            ALTER TABLE usage_sum ADD CHECK (calls >= 0 AND amount_nano >= 0);
            GRANT SELECT ON journal_position, price_version TO maas_app;
            GRANT UPDATE (resolved_at) ON journal_quarantine TO maas_ops;
            """,
            migrations.RunSQL.noop,
        ),
    ]
