"""How many keys, invitations and members an organization may have."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from tenants.actions import invite, set_organization_limits
from tenants.databases import as_operator
from tenants.limit_columns import CapColumns
from tenants.models import ApiKey, Invitation, Membership, Organization
from tenants.scope import tenant_scope
from tests.racing import at_once, one_wins
from tests.tenants.test_invitations_api import accept, mail_in_files, token_for  # noqa: F401  # a fixture

KEYS, INVITATIONS = "/api/v1/keys", "/api/v1/invitations"


@pytest.fixture
def cap(alice):
    """`cap(max_keys=1, …)` of Alice's organization."""
    return lambda **caps: set_organization_limits(alice.organization.id, **caps)


@pytest.fixture
def client(client_of, alice):
    return client_of(alice)


def make(client, name="k", **body):
    return client.post(KEYS, {"name": name, **body}, format="json")


def send(client, email):
    return client.post(INVITATIONS, {"email": email}, format="json")


def refused(answer, cap, limit):
    """Whether the answer says which limit, how high it is, whose, and what to do."""
    body = answer.json()
    assert (answer.status_code, body["code"], body["limit_source"]) == (409, "limit_reached", "organization")
    assert (body["errors"][0]["field"], body["errors"][0]["limit"]) == (cap, limit)
    assert str(limit) in body["detail"]
    assert "ask for a higher limit" in body["detail"]
    return True


def test_one_key_too_many_is_refused(client, cap):
    cap(max_keys=2)
    assert [make(client).status_code for _ in range(2)] == [201, 201]

    assert refused(make(client), "keys", 2)

    assert len(client.get(KEYS).json()["results"]) == 2


def test_a_revoked_or_expired_key_takes_no_place(client, cap, alice, make_key):
    cap(max_keys=1)
    key, _ = make_key(alice.organization)
    client.delete(f"{KEYS}/{key.shown_id}")
    soon = make(client).json()
    assert refused(make(client), "keys", 1)

    with tenant_scope(alice.organization.id):
        ApiKey.objects.filter(public_id=soon["prefix"][-12:]).update(expires_at=timezone.now() - timedelta(seconds=1))

    assert make(client).status_code == 201
    later = (timezone.now() + timedelta(days=1)).isoformat()
    assert refused(client.patch(f"{KEYS}/{soon['id']}", {"expires_at": later}, format="json"), "keys", 1)


def test_a_rotation_needs_a_place_unless_the_old_key_ends_at_once(client, cap):
    cap(max_keys=1)
    key = make(client).json()["id"]

    assert refused(client.post(f"{KEYS}/{key}/rotate", {}, format="json"), "keys", 1)
    assert client.get(f"{KEYS}/{key}").json()["status"] == "active"
    assert client.post(f"{KEYS}/{key}/rotate", {"overlap_seconds": 0}, format="json").status_code == 201


def test_of_many_that_want_the_last_place_for_a_key_one_gets_it(client_of, cap, alice):
    cap(max_keys=3)
    assert [make(client_of(alice)).status_code for _ in range(2)] == [201, 201]

    one_wins(make, [(client_of(alice),) for _ in range(8)])

    with tenant_scope(alice.organization.id):
        assert ApiKey.objects.of(alice.organization).count() == 3


def test_one_open_invitation_too_many_is_refused_but_one_can_be_replaced(client, cap):
    cap(max_invitations=1)
    assert send(client, "a@example.org").status_code == 201

    assert refused(send(client, "b@example.org"), "invitations", 1)

    assert send(client, "a@example.org").status_code == 201
    made = client.get(INVITATIONS).json()["results"]
    (standing,) = [each for each in made if each["status"] == "open"]
    client.delete(f"{INVITATIONS}/{standing['id']}")
    assert send(client, "b@example.org").status_code == 201


def test_of_many_that_want_the_last_place_for_an_invitation_one_gets_it(client_of, cap, alice):
    cap(max_invitations=1)

    one_wins(send, [(client_of(alice), f"{n}@example.org") for n in range(8)])

    with tenant_scope(alice.organization.id):
        assert Invitation.objects.of(alice.organization).count() == 1


def test_who_finds_no_place_is_told_and_can_join_later(client, client_of, cap, alice, charlie):
    cap(max_members=1)
    send(client, charlie.email)
    token = token_for(charlie.email)

    assert refused(accept(client_of(charlie), token), "members", 1)

    cap(max_members=2)
    assert accept(client_of(charlie), token).status_code == 200


def test_a_member_who_accepts_again_needs_no_place(client, client_of, cap, charlie, join, alice):
    send(client, charlie.email)
    join(charlie, alice.organization, "viewer")
    cap(max_members=1)

    accepted = accept(client_of(charlie), token_for(charlie.email))

    assert (accepted.status_code, accepted.json()["role"]) == (200, "viewer")


def test_of_many_that_want_the_last_place_for_a_member_one_gets_it(client, client_of, cap, alice, make_user):
    people = [make_user(f"guest{n}") for n in range(6)]
    for person in people:
        assert send(client, person.email).status_code == 201
    tokens = {person: token_for(person.email) for person in people}
    cap(max_members=2)

    one_wins(accept, [(client_of(person), tokens[person]) for person in people], won=200)

    with tenant_scope(alice.organization.id):
        assert Membership.objects.of(alice.organization).count() == 2


def test_inviting_and_accepting_at_once_do_not_wait_for_each_other_for_ever(client, client_of, alice, charlie):
    for _ in range(5):
        send(client, charlie.email)
        token = token_for(charlie.email)
        one, other = client_of(alice), client_of(charlie)

        answers = at_once(lambda: send(one, charlie.email), lambda: accept(other, token))  # noqa: B023  # run at once

        assert {answer.status_code for answer in answers} <= {200, 201, 404, 409}
        with tenant_scope(alice.organization.id):
            Membership.objects.of(alice.organization).filter(user=charlie).delete()


def test_a_lower_cap_takes_nothing_away(client, cap):
    made = make(client).json()
    cap(max_keys=0)

    assert refused(make(client), "keys", 0)
    assert client.get(f"{KEYS}/{made['id']}").json()["status"] == "active"
    assert client.get("/api/v1/limits").json()["organization"]["keys"] == {"limit": 0, "used": 1, "left": 0}


def test_each_cap_is_shown_with_used_and_left(client, cap, alice, bob):
    cap(max_keys=5, max_members=9, max_invitations=3)
    make(client)
    send(client, "a@example.org")

    shown = client.get("/api/v1/limits").json()["organization"]

    assert shown["keys"] == {"limit": 5, "used": 1, "left": 4}
    assert shown["members"] == {"limit": 9, "used": 2, "left": 7}
    assert shown["invitations"] == {"limit": 3, "used": 1, "left": 2}


@pytest.mark.parametrize("column", [field.name for field in CapColumns._meta.fields])
def test_the_database_takes_no_cap_below_its_least(alice, column):
    with as_operator(), pytest.raises(IntegrityError), transaction.atomic(using="ops"):
        Organization.objects.filter(id=alice.organization.id).update(**{column: -1})


def test_the_application_changes_no_cap(alice):
    from django.db import ProgrammingError

    with pytest.raises(ProgrammingError, match="permission denied"), tenant_scope(alice.organization.id):
        Organization.objects.filter(id=alice.organization.id).update(max_keys=10**6)


def test_code_from_before_the_caps_still_makes_organizations(embedded):
    """It names no cap when it inserts."""
    import psycopg2

    from saas.lib.ids import uuid7

    identity = str(uuid7())
    with psycopg2.connect(embedded["DATABASE_OPS_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tenants_organization (id, slug, name, is_active, rate, burst, concurrency, created_at) "
            "VALUES (%s, %s, '', true, 1, 1, 1, now()) RETURNING max_keys, max_stored_bytes",
            [identity, f"old-{identity}"],
        )
        assert cursor.fetchone() == (100, 20 << 30)
    connection.close()


def test_an_action_outside_the_api_is_capped_too(cap, alice):
    from saas.lib.errors import LimitReached
    from tenants.access import SYSTEM

    cap(max_invitations=0)
    with pytest.raises(LimitReached), tenant_scope(alice.organization.id):
        invite(organization=alice.organization, email="x@example.org", role="viewer", invited_by=None, actor=SYSTEM)
