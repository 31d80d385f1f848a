"""How many bytes of inputs and answers each organization keeps: a number that triggers change in whatever transaction changes them.

Sizes are read without the values (octet_length of a stored one is in its pointer). A row's trigger sees it as it is stored; only
deletions, of which there may be very many at once, are added up first.
"""

import django.db.models.deletion
from django.db import migrations, models

from saas.lib.rls import tenant_policy

COUNT = """
CREATE FUNCTION inference_count_data(tenant uuid, change bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF change > 0 THEN
    INSERT INTO inference_keptdata AS k (tenant_id, bytes) VALUES (tenant, change)
    ON CONFLICT (tenant_id) DO UPDATE SET bytes = k.bytes + change;
  ELSIF change < 0 THEN
    UPDATE inference_keptdata SET bytes = bytes + change WHERE tenant_id = tenant;
  END IF;
END $$;
"""


def triggers(table: str, columns: tuple[str, ...]) -> migrations.RunSQL:
    def size(row: str) -> str:
        return " + ".join(f"coalesce(octet_length({row}{column}), 0)" for column in columns)

    return migrations.RunSQL(
        f"""
        CREATE FUNCTION {table}_count() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF TG_OP = 'INSERT' THEN
            PERFORM inference_count_data(NEW.tenant_id, {size("NEW.")});
          ELSIF TG_OP = 'UPDATE' THEN
            PERFORM inference_count_data(NEW.tenant_id, {size("NEW.")} - ({size("OLD.")}));
          ELSE
            PERFORM inference_count_data(g.tenant_id, -g.bytes)
            FROM (SELECT tenant_id, sum({size("")})::bigint AS bytes FROM gone GROUP BY tenant_id ORDER BY tenant_id) g;
          END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER count_added AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_count();
        CREATE TRIGGER count_changed AFTER UPDATE OF {", ".join(columns)} ON {table}
          FOR EACH ROW EXECUTE FUNCTION {table}_count();
        CREATE TRIGGER count_gone AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone
          FOR EACH STATEMENT EXECUTE FUNCTION {table}_count();
        """,
        f"""
        DROP TRIGGER count_gone ON {table};
        DROP TRIGGER count_changed ON {table};
        DROP TRIGGER count_added ON {table};
        DROP FUNCTION {table}_count();
        """,
    )


class Migration(migrations.Migration):
    dependencies = [("inference", "0008_rows_of_a_run"), ("tenants", "0006_data_bytes")]

    operations = [
        migrations.CreateModel(
            "KeptData",
            [
                (
                    "organization",
                    models.OneToOneField(
                        db_column="tenant_id",
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="tenants.organization",
                    ),
                ),
                ("bytes", models.BigIntegerField()),
            ],
        ),
        tenant_policy("inference_keptdata"),
        migrations.RunSQL(COUNT, "DROP FUNCTION inference_count_data(uuid, bigint)"),
        triggers("inference_prediction", ("input", "output")),
        triggers("inference_storedanswer", ("sealed",)),
    ]
