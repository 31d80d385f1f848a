"""Seals of hours, and the digests that a call with a receipt brings into the ledger."""

from django.db import migrations, models

TENANT = "(SELECT NULLIF(current_setting('app.tenant', true), '')::uuid)"

DIGESTS = """
ALTER TABLE usage_event ADD COLUMN digests text NOT NULL DEFAULT ''
  CHECK (digests = '' OR digests ~ '^[0-9a-f]{64}:[0-9a-f]{64}:[0-9a-f]{64}$');
"""

SEALS = f"""
CREATE TABLE usage_seal (
  tenant_id uuid NOT NULL,
  hour timestamptz NOT NULL CHECK (extract(epoch FROM hour) % 3600 = 0),
  seq integer NOT NULL CHECK (seq >= 0),
  number bigint NOT NULL CHECK (number >= 1),
  n bigint NOT NULL CHECK (n >= 1),
  amount_nano bigint NOT NULL CHECK (amount_nano >= 0),
  merkle_root bytea NOT NULL CHECK (length(merkle_root) = 32),
  prev_seal bytea NOT NULL CHECK (length(prev_seal) = 32),
  key_version integer NOT NULL,
  sig bytea NOT NULL CHECK (length(sig) = 64),
  first_call uuid NOT NULL,
  last_call uuid NOT NULL,
  after_batch bigint NOT NULL,
  last_batch bigint NOT NULL CHECK (last_batch > after_batch),
  sealed_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, hour, seq),
  UNIQUE (tenant_id, number)
);
CREATE TABLE seal_due (
  stream varchar(100) NOT NULL,
  hour timestamptz NOT NULL,
  tenant_id uuid NOT NULL,
  first_call uuid NOT NULL,
  last_call uuid NOT NULL,
  PRIMARY KEY (stream, hour, tenant_id)
);
CREATE TABLE seal_progress (stream varchar(100) PRIMARY KEY, batch bigint NOT NULL, hour timestamptz NOT NULL);
REVOKE ALL ON usage_seal, seal_due, seal_progress FROM PUBLIC, maas_app, maas_ops, maas_door, maas_metering;
GRANT SELECT ON usage_seal, seal_progress TO maas_app;
GRANT SELECT ON usage_seal, seal_due, seal_progress TO maas_ops;
GRANT SELECT, INSERT ON usage_seal TO maas_metering;
GRANT SELECT, INSERT, UPDATE, DELETE ON seal_due TO maas_metering;
GRANT SELECT, INSERT, UPDATE ON seal_progress TO maas_metering;
ALTER TABLE usage_seal ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_seal FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_read ON usage_seal FOR SELECT TO maas_app USING (tenant_id = {TENANT});
CREATE POLICY metering_select ON usage_seal FOR SELECT TO maas_metering USING (true);
CREATE POLICY metering_insert ON usage_seal FOR INSERT TO maas_metering WITH CHECK (true);
ALTER TABLE seal_due ENABLE ROW LEVEL SECURITY;
ALTER TABLE seal_due FORCE ROW LEVEL SECURITY;
CREATE POLICY metering_all ON seal_due TO maas_metering USING (true) WITH CHECK (true);
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_seal FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def unmanaged(name, table, fields):
    return migrations.CreateModel(name=name, fields=fields, options={"db_table": table, "managed": False})


class Migration(migrations.Migration):
    dependencies = [("billing", "0013_first_subscriptions")]

    operations = [
        migrations.RunSQL(
            DIGESTS,
            "ALTER TABLE usage_event DROP COLUMN digests",
            state_operations=[migrations.AddField("usageevent", "digests", models.TextField(default=""))],
        ),
        migrations.RunSQL(
            SEALS,
            "DROP TABLE seal_progress; DROP TABLE seal_due; DROP TABLE usage_seal",
            state_operations=[
                unmanaged(
                    "UsageSeal",
                    "usage_seal",
                    [
                        ("tenant_id", models.UUIDField()),
                        ("hour", models.DateTimeField()),
                        ("seq", models.IntegerField()),
                        (
                            "number",
                            models.BigIntegerField(
                                help_text="Place in the organization's chain, from 1.", primary_key=True, serialize=False
                            ),
                        ),
                        ("n", models.BigIntegerField()),
                        ("amount_nano", models.BigIntegerField()),
                        ("merkle_root", models.BinaryField()),
                        ("prev_seal", models.BinaryField()),
                        ("key_version", models.IntegerField()),
                        ("sig", models.BinaryField()),
                        ("first_call", models.UUIDField()),
                        ("last_call", models.UUIDField()),
                        ("after_batch", models.BigIntegerField()),
                        ("last_batch", models.BigIntegerField()),
                        ("sealed_at", models.DateTimeField()),
                    ],
                ),
                unmanaged(
                    "SealDue",
                    "seal_due",
                    [
                        ("stream", models.CharField(max_length=100)),
                        ("tenant_id", models.UUIDField(primary_key=True, serialize=False)),
                        ("hour", models.DateTimeField()),
                        ("first_call", models.UUIDField()),
                        ("last_call", models.UUIDField()),
                    ],
                ),
                unmanaged(
                    "SealProgress",
                    "seal_progress",
                    [
                        ("stream", models.CharField(max_length=100, primary_key=True, serialize=False)),
                        ("batch", models.BigIntegerField()),
                        ("hour", models.DateTimeField()),
                    ],
                ),
            ],
        ),
    ]
