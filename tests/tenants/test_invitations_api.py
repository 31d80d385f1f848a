"""/invitations: create, list, revoke, accept."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone

from tenants.models import AuditEvent, Invitation, Membership
from tenants.scope import tenant_scope

URL = "/api/v1/invitations"


@pytest.fixture(autouse=True)
def mail_in_files(settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"  # the test environment's is in memory


def invite(client, email, role="developer"):
    return client.post(URL, {"email": email, "role": role}, format="json")


def token_for(email):
    """The token in the newest mail to this address."""
    return tokens_for(email)[-1]


def tokens_for(email):
    """The tokens in all mails to this address, oldest first."""
    files = sorted(Path(settings.EMAIL_FILE_PATH).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    mails = [text for path in files if f"To: {email}" in (text := path.read_text())]
    return [token for mail in mails for token in re.findall(r"^([A-Za-z0-9_-]{43})$", mail, re.MULTILINE)]


def accept(client, token):
    return client.post(f"{URL}/accept", {"token": token}, format="json")


def test_an_invitation_is_mailed_and_accepted_by_its_address(client_of, alice, charlie):
    made = invite(client_of(alice), charlie.email.upper())
    assert (made.status_code, made.json()["status"]) == (201, "open")
    token = token_for(charlie.email)
    assert token not in made.content.decode()

    accepted = accept(client_of(charlie), token)

    assert (accepted.status_code, accepted.json()["role"]) == (200, "developer")
    inside = client_of(charlie).get("/api/v1/members", headers={"X-Organization": alice.organization.slug})
    assert {member["email"] for member in inside.json()["results"]} == {alice.email, charlie.email}
    assert accept(client_of(charlie), token).status_code == 404
    with tenant_scope(alice.organization.id):
        assert list(AuditEvent.objects.order_by("id").values_list("action", flat=True))[-2:] == [
            "member.invited",
            "member.joined",
        ]


def test_only_the_hash_of_the_token_is_kept(client_of, alice, charlie):
    invite(client_of(alice), charlie.email)

    with tenant_scope(alice.organization.id):
        kept = Invitation.objects.get(email=charlie.email)
    assert token_for(charlie.email).encode() not in bytes(kept.token_hash)
    assert len(bytes(kept.token_hash)) == 32


def test_without_a_session_nothing_is_accepted(client_of, alice, charlie, make_key):
    invite(client_of(alice), charlie.email)

    assert accept(client_of(None), token_for(charlie.email)).status_code == 401
    assert accept(client_of(make_key(charlie.organization)[1]), token_for(charlie.email)).status_code == 403
    assert invite(client_of(None), charlie.email).status_code == 401


def test_another_person_cannot_use_the_token(client_of, alice, bob, charlie, make_user):
    invite(client_of(alice), charlie.email)

    assert accept(client_of(make_user("mallory")), token_for(charlie.email)).status_code == 404
    assert accept(client_of(charlie), token_for(charlie.email)).status_code == 200


def test_a_developer_invites_nobody_and_an_admin_no_owner(client_of, alice, bob, join, make_user):
    admin = join(make_user("dana"), alice.organization, "admin")

    assert invite(client_of(bob), "x@example.org").status_code == 403
    assert invite(client_of(admin), "x@example.org", "owner").status_code == 403
    assert invite(client_of(admin), "x@example.org", "admin").status_code == 201


def test_a_stranger_sees_and_revokes_no_invitation(client_of, alice, charlie):
    made = invite(client_of(alice), "x@example.org").json()

    assert client_of(charlie).get(f"{URL}/{made['id']}").status_code == 404
    assert client_of(charlie).delete(f"{URL}/{made['id']}").status_code == 404
    assert client_of(charlie).get(URL).json()["results"] == []
    assert client_of(alice).get(f"{URL}/{made['id']}").json()["status"] == "open"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "no address"},
        {"email": "a@b.org", "role": "king"},
        {"email": "a@b.org", "organization": "x"},
        {"email": "a@b.org\nBcc: x@y.z"},
    ],
)
def test_bad_input_is_refused(client_of, alice, body):
    response = client_of(alice).post(URL, body, format="json")

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")


def test_a_member_is_not_invited_again(client_of, alice, bob):
    assert invite(client_of(alice), bob.email).status_code == 409


def test_a_new_invitation_replaces_the_open_one(client_of, alice, charlie):
    first = invite(client_of(alice), charlie.email).json()
    old = token_for(charlie.email)
    second = invite(client_of(alice), charlie.email, "viewer").json()

    assert client_of(alice).get(f"{URL}/{first['id']}").json()["status"] == "revoked"
    assert client_of(alice).get(f"{URL}/{second['id']}").json()["status"] == "open"
    assert accept(client_of(charlie), old).status_code == 404


@pytest.mark.parametrize("change", [str, str.upper, str.title])
def test_an_owners_invitation_is_worthless_once_the_address_is_invited_as_a_viewer(client_of, alice, charlie, change):
    """However the address is written."""
    first = invite(client_of(alice), change(charlie.email), "owner").json()
    old = token_for(charlie.email)
    second = invite(client_of(alice), charlie.email, "viewer").json()

    listed = {each["id"]: each["status"] for each in client_of(alice).get(URL).json()["results"]}
    assert listed == {first["id"]: "revoked", second["id"]: "open"}
    assert accept(client_of(charlie), old).status_code == 404
    with tenant_scope(alice.organization.id):
        assert not Membership.objects.filter(user=charlie).exists()
    (new,) = set(tokens_for(charlie.email)) - {old}
    assert accept(client_of(charlie), new).json()["role"] == "viewer"
    assert accept(client_of(charlie), old).status_code == 404


@pytest.mark.parametrize("token", ["", "x", "x" * 300, "ä"])
def test_a_token_that_is_none_is_refused(client_of, charlie, token):
    assert accept(client_of(charlie), token).status_code in (404, 422)


def test_a_revoked_or_expired_invitation_is_not_accepted(client_of, alice, charlie):
    made = invite(client_of(alice), charlie.email).json()
    assert client_of(alice).delete(f"{URL}/{made['id']}").status_code == 204
    assert client_of(alice).delete(f"{URL}/{made['id']}").status_code == 409
    assert accept(client_of(charlie), token_for(charlie.email)).status_code == 404

    invite(client_of(alice), charlie.email)
    with tenant_scope(alice.organization.id):
        Invitation.objects.filter(accepted_at=None).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert accept(client_of(charlie), token_for(charlie.email)).status_code == 404
    with tenant_scope(alice.organization.id):
        assert not Membership.objects.filter(user=charlie).exists()
