"""An account belongs to whoever reads the mails to its confirmed address; whoever signed up with it first keeps nothing."""

import secrets

import pytest
from django.test import Client

from tenants.authentication import organizations_of
from tenants.models import ApiKey, AuditEvent, Invitation, Membership, User
from tenants.scope import tenant_scope
from tests.tenants.test_mail_links import NEW, link_in, press, reset_link, sign_in
from tests.tenants.test_signup import sign_up

EMAILS = "/_allauth/app/v1/account/email"


@pytest.fixture
def other():
    return f"mallory-{secrets.token_hex(6)}@example.org"


def send(method, path, token, body):
    return getattr(Client(), method)(path, body, content_type="application/json", headers={"X-Session-Token": token})


def signed_up(email, address):
    return sign_up(Client(), email, address).json()["meta"]["session_token"]


def organization_of(email):
    user = User.objects.get(email=email)
    return user, [found["id"] for found in organizations_of(user)]


def addresses(token):
    shown = Client().get(EMAILS, headers={"X-Session-Token": token}).json()["data"]
    return {each["email"]: (each["primary"], each["verified"]) for each in shown}


def chosen_anew(browser, mailoutbox, email, address):
    """A session of whoever chose a new password by mail."""
    assert press(browser, reset_link(mailoutbox, email, address), address, password=NEW).status_code == 200
    return sign_in(email, NEW, address).json()["meta"]["session_token"]


def test_who_proves_an_address_ends_what_was_made_with_it_before(browser, mailoutbox, make_user, join, email, other, address):
    token = signed_up(email, address)
    key = send("post", "/api/v1/keys", token, {"name": "kept"}).json()["key"]
    send("post", "/api/v1/invitations", token, {"email": other, "role": "admin"})
    send("post", EMAILS, token, {"email": other})
    user, (organization_id,) = organization_of(email)
    with tenant_scope(organization_id):
        organization = Membership.objects.get(user=user).organization
    join(make_user("accomplice"), organization, "admin")

    mine = chosen_anew(browser, mailoutbox, email, address)

    assert Client().get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    assert addresses(mine) == {email: (True, True)}
    with tenant_scope(organization_id):
        assert Invitation.objects.get().status == "revoked"
        assert ApiKey.objects.get().status == "revoked"
        assert [membership.user_id for membership in Membership.objects.all()] == [user.id]
        written = list(AuditEvent.objects.order_by("id").values_list("action", "actor_kind"))[-4:]
    assert written == [
        ("key.revoked", "system"),
        ("invitation.revoked", "system"),
        ("member.removed", "system"),
        ("organization.recovered", "system"),
    ]
    assert send("post", "/api/v1/keys", mine, {"name": "mine"}).status_code == 201


def test_who_proves_an_address_is_in_no_organization_with_another_owner(browser, mailoutbox, make_user, join, email, address):
    signed_up(email, address)
    user, (organization_id,) = organization_of(email)
    with tenant_scope(organization_id):
        organization = Membership.objects.get(user=user).organization
    join(make_user("accomplice"), organization, "owner")

    chosen_anew(browser, mailoutbox, email, address)

    _, (own,) = organization_of(email)
    assert own != organization_id
    with tenant_scope(own):
        assert Membership.objects.get().role == "owner"
    with tenant_scope(organization_id):
        assert not Membership.objects.filter(user=user).exists()


def test_a_confirmed_address_keeps_everything_with_a_new_password(browser, mailoutbox, email, address):
    token = signed_up(email, address)
    key = send("post", "/api/v1/keys", token, {"name": "kept"}).json()["key"]
    assert press(browser, link_in(mailoutbox[-1]), address).status_code == 200

    chosen_anew(browser, mailoutbox, email, address)

    assert Client().get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_an_account_goes_by_a_confirmed_address_once_there_is_one(browser, mailoutbox, email, other, address):
    """Who signs up with somebody else's address and confirms their own has an account by their own."""
    token = signed_up(email, address)
    send("post", EMAILS, token, {"email": other})
    assert press(browser, link_in(mailoutbox[-1]), address).status_code == 200

    assert addresses(token) == {email: (False, False), other: (True, True)}
    assert send("patch", EMAILS, token, {"email": email, "primary": True}).status_code == 400
    assert User.objects.filter(email=other).exists()

    assert reset_link(mailoutbox, email, address) == "/account/signup"
    assert mailoutbox[-1].to == [email]
    assert addresses(token) == {other: (True, True)}
    assert sign_up(Client(), email, address).status_code == 200


def test_a_link_is_worthless_once_another_address_was_confirmed(browser, mailoutbox, email, other, address):
    token = signed_up(email, address)
    send("post", EMAILS, token, {"email": other})
    confirm = link_in(mailoutbox[-1])
    link = reset_link(mailoutbox, email, address)

    assert press(browser, confirm, address).status_code == 200

    assert browser.get(link).status_code == 400
