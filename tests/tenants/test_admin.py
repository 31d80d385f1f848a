"""The operators' pages under /admin/."""

import secrets
from io import StringIO

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.test import Client
from django.urls import reverse

from tenants import records
from tenants.databases import as_operator
from tenants.limit_columns import CapColumns
from tenants.models import ApiKey, AuditEvent, Organization, User
from tenants.principal import unpack_key
from tenants.scope import tenant_scope

OURS = [model for model in admin.site._registry if model._meta.app_label == "tenants"]


@pytest.fixture
def operator():
    """The address of an operator made as the documentation says."""
    email = f"op-{secrets.token_hex(6)}@example.org"
    call_command("createsuperuser", "--noinput", f"--email={email}", "--database=ops", stdout=StringIO())
    return User.objects.get(email=email)


@pytest.fixture
def client(operator):
    client = Client()
    with as_operator():
        client.force_login(operator)
    return client


def test_an_operator_signs_in_with_a_password(operator):
    with as_operator():
        operator.set_password("correct horse battery")
        operator.save()
    client = Client()
    page = client.post("/admin/login/?next=/admin/", {"username": operator.email, "password": "correct horse battery"})

    assert (page.status_code, page["Location"]) == (302, "/admin/")
    assert client.get("/admin/").status_code == 200


def test_the_application_makes_no_operator():
    with pytest.raises(DatabaseError), transaction.atomic():
        User.objects.create_superuser(f"{secrets.token_hex(6)}@example.org", "x")


@pytest.mark.parametrize("who", ["nobody", "member"])
def test_others_are_sent_to_the_sign_in(who, alice):
    client = Client()
    if who == "member":
        client.force_login(alice)
    for path in ("/admin/", "/admin/tenants/apikey/", "/admin/tenants/organization/"):
        assert client.get(path).status_code == 302


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_every_table_has_a_page_without_secrets(model, client, alice, make_key):
    key, text = make_key(alice.organization)
    with as_operator():
        row = model.objects.order_by("-pk").first()
    pages = [client.get(reverse(f"admin:tenants_{model._meta.model_name}_changelist"))]
    if row is not None:
        pages.append(client.get(reverse(f"admin:tenants_{model._meta.model_name}_change", args=[row.pk])))
    for page in pages:
        assert page.status_code == 200
        text_of_page = page.content.decode()
        assert text[-38:] not in text_of_page
        assert "token_hash" not in text_of_page
        assert bytes(key.hash).hex() not in text_of_page


@pytest.mark.parametrize("name", ["apikey", "auditevent", "datakey", "membership", "invitation", "recordchange"])
def test_what_is_immutable_is_read_only(name, client):
    assert client.get(reverse(f"admin:tenants_{name}_add")).status_code == 403


def test_an_operators_limits_reach_the_gateways_and_the_audit_log(client, operator, alice, make_key, lanes):
    key = make_key(alice.organization)[0]
    url = reverse("admin:tenants_organization_change", args=[alice.organization.pk])
    body = {field.name: getattr(alice.organization, field.name) for field in CapColumns._meta.fields}
    body |= {"name": "Alice", "is_active": "on", "rate": "3.5", "burst": "4", "concurrency": "5", "monthly_calls": "6"}
    body |= {"max_models": "7"}
    page = client.post(url, body)

    assert page.status_code == 302, page.content.decode()
    while records.relay():
        pass
    record = unpack_key(lanes.get(f"key:{key.public_id}"))
    assert (record.limits.rate, record.limits.burst, record.limits.concurrency, record.is_capped) == (3.5, 4, 5, True)
    with tenant_scope(alice.organization.id):
        assert Organization.objects.get(id=alice.organization.id).max_models == 7
        noted = AuditEvent.objects.filter(action="organization.changed").latest("id")
    assert (noted.actor_kind, noted.actor) == ("operator", f"usr_{operator.id.hex}")


def test_an_operator_revokes_a_key(client, client_of, alice, make_key):
    key, text = make_key(alice.organization)
    client.post(reverse("admin:tenants_apikey_changelist"), {"action": "revoke", "_selected_action": [str(key.pk)]})

    assert client_of(text).get("/api/v1/me").status_code == 401
    with tenant_scope(alice.organization.id):
        assert ApiKey.objects.get(id=key.id).status == "revoked"


def test_an_operator_has_no_way_into_an_organization_through_the_api(client):
    assert client.get("/api/v1/organization").status_code == 404
