"""Signing up and in through allauth's headless API, and what comes with it."""

import secrets
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.test import Client

from tenants import events
from tenants.models import CATALOG_ID, DataKey, Membership, Organization, User
from tenants.scope import tenant_scope

APP, BROWSER = "/_allauth/app/v1/auth", "/_allauth/browser/v1"
PASSWORD = "correct horse battery"


def sign_up(client, email, address, **more):
    body = {"email": email, "password": PASSWORD} | more
    return client.post(f"{APP}/signup", body, content_type="application/json", REMOTE_ADDR=address)


def test_signing_up_makes_an_organization_that_the_person_owns(email, address):
    created = []
    events.organization_created.append(created.append)
    try:
        response = sign_up(Client(), email, address, organization="Dora & Söhne")
    finally:
        events.organization_created.remove(created.append)

    assert response.status_code == 200, response.content
    token = response.json()["meta"]["session_token"]
    me = Client().get("/api/v1/me", headers={"X-Session-Token": token}).json()
    assert (me["user"]["email"], me["role"]) == (email, "owner")
    assert me["organizations"][0]["name"] == "Dora & Söhne"
    assert me["organizations"][0]["slug"].startswith("dora-sohne")
    user = User.objects.get(email=email)
    assert len(created) == 1
    with tenant_scope(created[0]):
        assert Membership.objects.get().user_id == user.id
        assert DataKey.objects.get().retired_at is None


def test_the_first_key_is_made_with_the_session_and_the_key_works(email, address):
    token = sign_up(Client(), email, address).json()["meta"]["session_token"]

    made = Client().post("/api/v1/keys", {"name": "first"}, content_type="application/json", headers={"X-Session-Token": token})

    assert made.status_code == 201
    key = made.json()["key"]
    assert Client().get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).json()["key"]["mode"] == "live"


def test_signing_in_takes_the_address_in_any_case(email, address):
    sign_up(Client(), email, address)
    for login, password, status in ((email.upper(), PASSWORD, 200), (email, "wrong", 400)):
        body = {"email": login, "password": password}
        response = Client().post(f"{APP}/login", body, content_type="application/json", REMOTE_ADDR=address)
        assert response.status_code == status, response.content


def test_an_unknown_or_ended_session_is_refused(email, address):
    token = sign_up(Client(), email, address).json()["meta"]["session_token"]
    assert Client().get("/api/v1/me", headers={"X-Session-Token": "made-up"}).status_code == 401
    Client().delete(f"{APP}/session", headers={"X-Session-Token": token})

    assert Client().get("/api/v1/me", headers={"X-Session-Token": token}).status_code == 401


def test_a_cookie_needs_its_csrf_token_to_change_something(email, address):
    client = Client(enforce_csrf_checks=True)
    client.get(f"{BROWSER}/config")
    csrf = client.cookies["csrftoken"].value
    body = {"email": email, "password": PASSWORD}
    signed_up = client.post(
        f"{BROWSER}/auth/signup", body, content_type="application/json", headers={"X-CSRFToken": csrf}, REMOTE_ADDR=address
    )
    assert signed_up.status_code == 200, signed_up.content
    key = {"name": "first"}

    refused = client.post("/api/v1/keys", key, content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    csrf = client.cookies["csrftoken"].value
    assert client.post("/api/v1/keys", key, content_type="application/json", headers={"X-CSRFToken": csrf}).status_code == 201
    assert client.get("/api/v1/keys").status_code == 200


def test_a_weak_password_or_a_bad_address_is_refused_and_leaves_nothing(email, address):
    for body in (
        {"email": email, "password": "short"},
        {"email": email, "password": "password123"},
        {"email": "x", "password": PASSWORD},
    ):
        response = Client().post(f"{APP}/signup", body, content_type="application/json", REMOTE_ADDR=address)
        assert response.status_code == 400
    assert not User.objects.filter(email=email).exists()


def test_one_address_is_one_person(email, address):
    sign_up(Client(), email, address)
    sign_up(Client(), email.upper(), address)  # answered like any other, so that nobody learns who is here

    assert User.objects.filter(email__iexact=email).count() == 1
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(email=email.upper())


def test_signing_up_again_and_again_from_one_address_is_slowed_down(address):
    codes = [
        sign_up(Client(), f"x{n}-{secrets.token_hex(4)}@example.org", address, password="short").status_code for n in range(25)
    ]

    assert codes[-1] == 429


def test_mail_is_written_to_a_folder(email, address, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"  # the test environment's is in memory
    sign_up(Client(), email, address)

    mails = [path.read_text() for path in Path(django_settings.EMAIL_FILE_PATH).iterdir()]
    assert any(f"To: {email}" in mail and "/account/verify-email/" in mail for mail in mails)


def test_nobody_takes_the_catalogues_name_or_a_word_of_the_routes(address):
    for name in ("catalog", "models", "!!!", "x" * 150):
        token = sign_up(Client(), f"n-{secrets.token_hex(6)}@example.org", address, organization=name).json()["meta"][
            "session_token"
        ]
        slug = Client().get("/api/v1/me", headers={"X-Session-Token": token}).json()["organizations"][0]["slug"]
        assert slug != name
        assert len(slug) <= 63


def test_the_catalogue_is_made_once():
    from tenants.actions import catalog_organization

    assert catalog_organization().id == catalog_organization().id == CATALOG_ID
    with tenant_scope(CATALOG_ID):
        assert Organization.objects.get().slug == "catalog"
        assert DataKey.objects.count() == 1


def shown(answer):
    return answer.status_code, sorted(answer.headers), answer.json()


@pytest.mark.parametrize("route", ["login", "password/request"])
def test_signing_in_and_a_forgotten_password_tell_nobody_who_has_an_account(email, address, route):
    sign_up(Client(), email, address)
    body = {"password": "not the right one"} if route == "login" else {}

    known, unknown = (
        Client().post(f"{APP}/{route}", body | {"email": each}, content_type="application/json", REMOTE_ADDR=address)
        for each in (email, f"nobody-{secrets.token_hex(6)}@example.org")
    )

    assert shown(known) == shown(unknown)


def test_signing_up_with_an_address_that_is_taken_is_refused_and_tried_only_so_often(email, address):
    sign_up(Client(), email, address)

    refused = sign_up(Client(), email, address, password="another battery staple")

    assert refused.status_code == 400
    assert [error["code"] for error in refused.json()["errors"]] == ["email_taken"]
    assert "session_token" not in refused.json().get("meta", {})
    assert {sign_up(Client(), email, address).status_code for _ in range(30)} == {400, 429}
