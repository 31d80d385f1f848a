"""What an organization's contract means for its calls, as a column, and in the record of each of its keys."""

import django.core.validators
from django.db import migrations, models

COLUMNS = """id uuid, public_id varchar, tenant_id uuid, slug varchar, mode varchar, hash bytea, pepper_version integer,
  scopes varchar[], models varchar[], expires_at timestamptz, is_active boolean,
  rate double precision, burst integer, concurrency integer, monthly_calls bigint,
  organization_rate double precision, organization_burst integer, organization_concurrency integer,
  organization_monthly_calls bigint, data_key_id uuid, data_key bytea{terms}"""

QUERY = """
SELECT k.id, k.public_id, k.tenant_id, o.slug, k.mode, k.hash, k.pepper_version, k.scopes, k.models, k.expires_at,
  k.revoked_at IS NULL AND o.is_active, k.rate, k.burst, k.concurrency, k.monthly_calls,
  o.rate, o.burst, o.concurrency, o.monthly_calls, d.id, d.wrapped{terms}
FROM public.tenants_apikey k
JOIN public.tenants_organization o ON o.id = k.tenant_id
LEFT JOIN public.tenants_datakey d ON d.tenant_id = k.tenant_id AND d.purpose = 'payload' AND d.retired_at IS NULL
WHERE k.public_id = wanted
"""


def door(columns, query):
    """The function anew: what it returns cannot be replaced. Code of before reads its columns by name."""
    return f"""
    DROP FUNCTION tenants_key_by_public_id(text);
    CREATE FUNCTION tenants_key_by_public_id(wanted text) RETURNS TABLE ({columns}) LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $door$ {query} $door$;
    ALTER FUNCTION tenants_key_by_public_id(text) OWNER TO maas_door;
    REVOKE ALL ON FUNCTION tenants_key_by_public_id(text) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION tenants_key_by_public_id(text) TO maas_app;
    """


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_caps")]

    operations = [
        migrations.AddField(
            model_name="organization",
            name="terms",
            field=models.JSONField(
                db_default={},
                default=dict,
                editable=False,
                help_text="What its contract means for calls (tenants.principal.Terms).",
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="retention_hours",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Hours that inputs and outputs of predictions are kept; empty: the platform's.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
            ),
        ),
        migrations.AddConstraint(
            model_name="organization",
            constraint=models.CheckConstraint(
                condition=models.Q(("retention_hours__gte", 1)), name="organization_retention_positive"
            ),
        ),
        migrations.RunSQL(
            door(COLUMNS.format(terms=", terms jsonb"), QUERY.format(terms=", o.terms")),
            door(COLUMNS.format(terms=""), QUERY.format(terms="")),
        ),
    ]
