"""What invitations cannot be used for: mails to strangers in numbers, or with somebody's words and links in them."""

import secrets
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import F

from tenants.actions import create_organization
from tenants.invitation_limits import MAILS_A_DAY, RATES
from tenants.models import Invitation
from tenants.scope import tenant_scope
from tests.tenants.test_invitations_api import URL, accept, invite

(_, AN_HOUR), (_, A_DAY) = RATES


def make_and_revoke(client, times):
    """Invitations, one after the other, none of which stays open."""
    for _ in range(times):
        made = invite(client, f"x-{secrets.token_hex(6)}@example.org")
        assert made.status_code == 201
        assert client.delete(f"{URL}/{made.json()['id']}").status_code == 204


def age(organization, hours):
    with tenant_scope(organization.id):
        Invitation.objects.of(organization).update(created_at=F("created_at") - timedelta(hours=hours))


def waits(response):
    """For how long a refused invitation is to wait, in seconds."""
    body = response.json()
    assert (response.status_code, body["code"], body["limit_source"]) == (429, "rate_limited", "organization")
    return int(response["Retry-After"])


def test_revoked_invitations_count_for_an_hour_and_a_day(client_of, alice, charlie, mailoutbox):
    client = client_of(alice)
    make_and_revoke(client, AN_HOUR)
    assert 3000 < waits(invite(client, "y@example.org")) <= 3600
    assert len(mailoutbox) == AN_HOUR

    age(alice.organization, 2)
    make_and_revoke(client, AN_HOUR)
    age(alice.organization, 2)
    make_and_revoke(client, A_DAY - 2 * AN_HOUR)
    assert 19 * 3600 < waits(invite(client, "y@example.org")) <= 20 * 3600
    assert invite(client_of(charlie), "y@example.org").status_code == 201

    age(alice.organization, 21)
    assert invite(client, "y@example.org").status_code == 201


def test_an_address_gets_a_few_mails_a_day_whoever_invites_it_and_nobody_is_told(
    client_of, make_user, alice, charlie, mailoutbox
):
    guest = make_user("guest")
    for _ in range(MAILS_A_DAY - 1):
        assert invite(client_of(alice), guest.email).status_code == 201
    last, without_mail = invite(client_of(charlie), guest.email), invite(client_of(alice), guest.email.upper())

    assert (last.status_code, without_mail.status_code) == (201, 201)
    assert last.json().keys() == without_mail.json().keys()
    assert without_mail.json()["status"] == "open"
    assert [mail.to for mail in mailoutbox] == [[guest.email]] * MAILS_A_DAY
    token = next(line for line in mailoutbox[-1].body.splitlines() if len(line) == 43)
    assert accept(client_of(guest), token).status_code == 200


@pytest.mark.parametrize(
    "name", ["Your bank: click http://evil.example now", "www.evil.example", "evil.example\nBcc: x@y.example", "evil․example"]
)
def test_a_mail_has_no_words_of_the_organizations_name(client_of, make_user, mailoutbox, name):
    owner = make_user("mallory")
    with transaction.atomic():
        organization = create_organization(name=name, owner=owner)

    assert invite(client_of(owner), f"x-{secrets.token_hex(6)}@example.org").status_code == 201

    (mail,) = mailoutbox
    assert mail.subject == f"Invitation to {organization.slug}"
    assert "evil.example" not in mail.body
    assert "evil․example" not in mail.body
    assert mail.body.count("://") == 1  # where the token is sent
