"""Row-level security of models, versions, aliases and their history: as the application's role, whatever the query."""

import pytest
from django.db import DatabaseError, connection, transaction

from inference.intake.rules import rejection

TABLES = ("inference_mlmodel", "inference_modelversion", "inference_alias", "inference_aliaschange")


def rows(tenant, query, *arguments):
    """The result of a raw query as the application's role for `tenant`."""
    from tenants.scope import set_tenant

    with transaction.atomic():
        set_tenant(tenant)
        with connection.cursor() as cursor:
            cursor.execute(query, arguments)
            return cursor.fetchall() if cursor.description else cursor.rowcount


@pytest.mark.parametrize("table", TABLES)
def test_another_tenant_sees_changes_and_removes_no_row(alice, charlie, iris, table):
    mine, stranger = alice.organization.id, charlie.organization.id
    owned = f"FROM {table} WHERE tenant_id = %s"

    assert rows(mine, f"SELECT id {owned}", mine)
    for tenant in (stranger, None):
        assert rows(tenant, f"SELECT id {owned}", mine) == []
        assert rows(tenant, f"UPDATE {table} SET created_at = now() WHERE tenant_id = %s", mine) == 0
        assert rows(tenant, f"DELETE {owned}", mine) == 0
    assert rows(mine, f"SELECT id {owned}", mine)


@pytest.mark.parametrize("table", TABLES)
def test_no_row_can_be_given_to_another_tenant(alice, charlie, iris, table):
    with pytest.raises(DatabaseError, match="row-level security"):
        rows(alice.organization.id, f"UPDATE {table} SET tenant_id = %s", charlie.organization.id)


def test_a_child_cannot_point_at_another_tenants_parent(client_of, alice, charlie, iris):
    from inference.models import Alias, MLModel, ModelVersion
    from tenants.scope import tenant_scope

    with tenant_scope(alice.organization.id):
        version = ModelVersion.objects.of(alice.organization).get()
    client_of(charlie).post("/api/v1/models", {"name": "rose"}, format="json")
    with tenant_scope(charlie.organization.id):
        rose = MLModel.objects.of(charlie.organization).get()
    owner = charlie.organization
    foreign_model = ModelVersion(
        organization=owner, model_id=version.model_id, major=9, minor=0, patch=0, digest="0" * 64, size=1
    )
    foreign_version = Alias(organization=owner, model=rose, name="mine", version_id=version.id)
    for child in (foreign_model, foreign_version):
        with pytest.raises(DatabaseError, match=r"same_tenant|same_model"), tenant_scope(owner.id):
            child.save(force_insert=True)


def test_an_alias_cannot_point_at_a_version_of_another_model(client_of, alice, iris):
    from inference.models import Alias, MLModel, ModelVersion
    from tenants.scope import tenant_scope

    client_of(alice).post("/api/v1/models", {"name": "rose"}, format="json")
    owner = alice.organization
    with tenant_scope(owner.id):
        rose = MLModel.objects.of(owner).get(name="rose")
        version = ModelVersion.objects.of(owner).get()
    with pytest.raises(DatabaseError, match="same_model"), tenant_scope(owner.id):
        Alias.objects.create(organization=owner, model=rose, name="mine", version=version)


def test_only_the_catalogue_can_be_public_even_by_raw_sql(alice, iris):
    with pytest.raises(DatabaseError, match="only_the_catalogue_is_public"):
        rows(alice.organization.id, "UPDATE inference_mlmodel SET visibility = 'public'")


def test_what_is_public_is_read_by_all_and_written_by_none(client_of, alice):
    from inference.actions import create_model
    from tenants.access import SYSTEM
    from tenants.actions import catalog_organization
    from tenants.models import CATALOG_ID
    from tenants.scope import tenant_scope

    catalog = catalog_organization()
    name = f"m{alice.organization.id.hex[-20:]}"
    with tenant_scope(catalog.id):
        public = create_model(organization=catalog, actor=SYSTEM, name=name, visibility="public")
        hidden = create_model(organization=catalog, actor=SYSTEM, name=f"{name}x")
    find = "SELECT id FROM inference_mlmodel WHERE id = %s"
    for tenant in (alice.organization.id, None):
        assert rows(tenant, find, public.id) == [(public.id,)]
        assert rows(tenant, find, hidden.id) == []
        assert rows(tenant, "UPDATE inference_mlmodel SET name = 'x' WHERE id = %s", public.id) == 0
        assert rows(tenant, "DELETE FROM inference_mlmodel WHERE id = %s", public.id) == 0
    rows(CATALOG_ID, "UPDATE inference_mlmodel SET deleted_at = now() WHERE id = %s", public.id)
    assert rows(alice.organization.id, find, public.id) == []


def test_a_verdict_is_written_once(alice, iris):
    from inference.actions import reject
    from inference.models import ModelVersion
    from tenants.scope import tenant_scope

    with tenant_scope(alice.organization.id):
        version = ModelVersion.objects.of(alice.organization).select_related("model").get()
        reject(version, verdict=rejection("crashed", "too late"))
        assert ModelVersion.objects.of(alice.organization).get().state == "ready"
