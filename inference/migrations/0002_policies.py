from django.db import migrations

from saas.lib.rls import tenant_key, tenant_policy, tenant_reference

MODEL, VERSION, ALIAS, CHANGE = "inference_mlmodel", "inference_modelversion", "inference_alias", "inference_aliaschange"

# Doors through the policy: every tenant reads the catalogue. A child is public as its model is; the subquery meets the
# model's own policies, so a private model's children stay hidden whatever they say of themselves.
IS_PUBLIC = f"EXISTS (SELECT FROM {MODEL} m WHERE m.id = model_id AND m.visibility = 'public' AND m.deleted_at IS NULL)"


def public_policy(table, condition):
    return migrations.RunSQL(
        f"CREATE POLICY catalogue ON {table} FOR SELECT TO maas_app USING ({condition})", f"DROP POLICY catalogue ON {table}"
    )


def same_model(table):
    """An alias points at a version of its own model."""
    name = f"{table}_version_same_model"
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (model_id, version_id) REFERENCES {VERSION} (model_id, id) "
        f"DEFERRABLE INITIALLY DEFERRED",
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
    )


class Migration(migrations.Migration):
    dependencies = [("inference", "0001_models")]

    operations = [
        *[tenant_policy(table) for table in (MODEL, VERSION, ALIAS, CHANGE)],
        *[tenant_key(table) for table in (MODEL, VERSION)],
        *[tenant_reference(table, "model_id", MODEL) for table in (VERSION, ALIAS, CHANGE)],
        *[tenant_reference(table, "version_id", VERSION) for table in (ALIAS, CHANGE)],
        migrations.RunSQL(
            f"ALTER TABLE {VERSION} ADD CONSTRAINT {VERSION}_model_id_key UNIQUE (model_id, id)",
            f"ALTER TABLE {VERSION} DROP CONSTRAINT {VERSION}_model_id_key",
        ),
        *[same_model(table) for table in (ALIAS, CHANGE)],
        public_policy(MODEL, "visibility = 'public' AND deleted_at IS NULL"),
        *[public_policy(table, IS_PUBLIC) for table in (VERSION, ALIAS)],
    ]
