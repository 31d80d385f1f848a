"""/members: list, get, change role, remove, leave."""

import threading

import pytest
from django.db import connection

from saas.lib.ids import shown
from tenants import actions
from tenants.access import SYSTEM
from tenants.models import AuditEvent, Membership
from tenants.scope import tenant_scope
from tests.racing import one_wins
from tests.waiting import PATIENCE

URL = "/api/v1/members"


def url_of(user):
    return f"{URL}/{shown('usr', user.id)}"


def role_of(user, organization):
    with tenant_scope(organization.id):
        membership = Membership.objects.of(organization).filter(user=user).first()
    return membership and membership.role


def test_members_are_listed_with_their_roles(client_of, alice, bob):
    body = client_of(bob).get(URL).json()

    assert {member["email"]: member["role"] for member in body["results"]} == {alice.email: "owner", bob.email: "developer"}
    assert client_of(alice).get(url_of(bob)).json()["id"] == shown("usr", bob.id)


def test_without_a_key_nothing_is_told(client_of, bob):
    client = client_of(None)

    assert [client.get(URL).status_code, client.get(url_of(bob)).status_code, client.delete(url_of(bob)).status_code] == [
        401
    ] * 3


def test_a_developer_changes_nobody(client_of, alice, bob, make_key):
    key = make_key(alice.organization, scopes=["members:read"])[1]
    for client in (client_of(bob), client_of(key)):
        assert client.patch(url_of(alice), {"role": "viewer"}, format="json").status_code == 403
        assert client.delete(url_of(alice)).status_code == 403
    assert role_of(alice, alice.organization) == "owner"


def test_a_stranger_finds_no_member(client_of, alice, bob, charlie):
    client = client_of(charlie)

    assert client.get(url_of(alice)).status_code == 404
    assert client.patch(url_of(bob), {"role": "viewer"}, format="json").status_code == 404
    assert client.delete(url_of(bob)).status_code == 404
    assert alice.email not in client.get(URL).content.decode()
    assert role_of(bob, alice.organization) == "developer"


@pytest.mark.parametrize(
    "body", [{}, {"role": "king"}, {"role": None}, {"role": "admin", "user": "usr_1"}, {"role": ["admin"]}]
)
def test_bad_input_is_refused(client_of, alice, bob, body):
    response = client_of(alice).patch(url_of(bob), body, format="json")

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize("member", ["usr_", "x", "key_" + "0" * 32, "usr_" + "0" * 32, "usr_" + "g" * 32])
def test_an_id_that_is_none_is_not_found(client_of, alice, member):
    assert client_of(alice).get(f"{URL}/{member}").status_code == 404


def test_a_changed_role_holds_at_once_and_is_noted(client_of, alice, bob):
    assert client_of(alice).patch(url_of(bob), {"role": "viewer"}, format="json").json()["role"] == "viewer"

    assert client_of(bob).post("/api/v1/keys", {"name": "x"}, format="json").status_code == 403
    with tenant_scope(alice.organization.id):
        noted = AuditEvent.objects.get(action="member.changed")
    assert (noted.target, noted.details) == (shown("usr", bob.id), {"role": "viewer", "before": "developer"})


def test_only_owners_make_and_unmake_owners(client_of, alice, bob, join, make_user, make_key):
    admin = join(make_user("dana"), alice.organization, "admin")
    for client in (client_of(admin), client_of(make_key(alice.organization)[1])):
        assert client.patch(url_of(bob), {"role": "owner"}, format="json").status_code == 403
        assert client.patch(url_of(alice), {"role": "viewer"}, format="json").status_code == 403
        assert client.delete(url_of(alice)).status_code == 403
    assert client_of(admin).patch(url_of(bob), {"role": "admin"}, format="json").status_code == 200
    assert client_of(alice).patch(url_of(bob), {"role": "owner"}, format="json").status_code == 200


def test_a_key_gives_no_role_that_may_do_more_than_the_key(client_of, alice, bob, make_key):
    key = make_key(alice.organization, scopes=["members:read", "members:write"])[1]

    assert client_of(key).patch(url_of(bob), {"role": "admin"}, format="json").status_code == 403


def test_the_last_owner_cannot_leave_or_step_down(client_of, alice, bob):
    client = client_of(alice)

    for response in (client.delete(url_of(alice)), client.patch(url_of(alice), {"role": "admin"}, format="json")):
        assert (response.status_code, response.json()["code"]) == (409, "state_conflict")
    client.patch(url_of(bob), {"role": "owner"}, format="json")
    assert client.delete(url_of(alice)).status_code == 204
    assert client.get(URL).status_code == 404


def test_two_owners_that_leave_at_once_do_not_leave_nobody(alice, join, make_user):
    organization = alice.organization
    other = join(make_user("olga"), organization, "owner")
    together = threading.Barrier(2)

    def leave(user):
        try:
            with tenant_scope(organization.id):
                membership = Membership.objects.of(organization).get(user=user)
                together.wait(PATIENCE)
                actions.remove_member(membership, actor=SYSTEM)
        except actions.StateConflict:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=leave, args=(user,)) for user in (alice, other)]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    with tenant_scope(organization.id):
        assert Membership.objects.of(organization).filter(role="owner").count() == 1


def test_a_member_leaves_and_is_out_at_once(client_of, alice, bob):
    assert client_of(bob).delete(url_of(bob)).status_code == 204
    assert client_of(bob).get(URL).status_code == 404
    assert client_of(alice).get(url_of(bob)).status_code == 404


def test_a_removed_member_is_out_at_once_but_their_keys_stay(client_of, alice, bob, make_key):
    text = make_key(alice.organization, created_by=bob)[1]

    assert client_of(alice).delete(url_of(bob)).status_code == 204
    assert client_of(bob).get(URL).status_code == 404
    assert client_of(text).get(URL).status_code == 200


def test_of_many_that_remove_a_member_one_does_and_the_log_says_it_once(client_of, alice, bob):
    one_wins(lambda client: client.delete(url_of(bob)), [(client_of(alice),) for _ in range(6)], won=204, lost=404)

    with tenant_scope(alice.organization.id):
        assert AuditEvent.objects.of(alice.organization).filter(action="member.removed").count() == 1
