"""/organization, /me and /audit-events."""

import pytest

from tenants.models import Organization
from tenants.scope import tenant_scope

URL = "/api/v1/organization"


def test_members_see_their_organization_and_its_limits(client_of, alice, bob):
    body = client_of(bob).get(URL).json()

    assert body == {
        "id": alice.organization.shown_id,
        "slug": alice.organization.slug,
        "name": alice.organization.name,
        "limits": {"rate": 100.0, "burst": 200, "concurrency": 64, "monthly_calls": None},
        "created_at": body["created_at"],
    }


def test_an_owner_renames_it_and_that_is_noted(client_of, alice):
    assert client_of(alice).patch(URL, {"name": "New"}, format="json").json()["name"] == "New"

    events = client_of(alice).get("/api/v1/audit-events?limit=1").json()
    assert (events["results"][0]["action"], events["results"][0]["details"]) == ("organization.changed", {"fields": ["name"]})
    assert events["next"] is not None


def test_without_a_key_or_scope_it_is_refused(client_of, alice, bob, make_key):
    assert client_of(None).get(URL).status_code == 401
    assert client_of(bob).patch(URL, {"name": "x"}, format="json").status_code == 403
    assert client_of(bob).get("/api/v1/audit-events").status_code == 403
    assert client_of(make_key(alice.organization, scopes=["models:read"])[1]).get(URL).status_code == 403


def test_a_stranger_reaches_only_their_own(client_of, alice, charlie):
    theirs = {"X-Organization": alice.organization.slug}

    assert client_of(charlie).get(URL, headers=theirs).status_code == 404
    assert client_of(charlie).patch(URL, {"name": "x"}, format="json", headers=theirs).status_code == 404
    assert client_of(charlie).get(URL, headers={"X-Organization": "nobody-has-this"}).status_code == 404
    assert alice.organization.shown_id not in client_of(charlie).get("/api/v1/audit-events").content.decode()


@pytest.mark.parametrize(
    "body",
    [{"slug": "other"}, {"rate": 1e6}, {"monthly_calls": None}, {"limits": {"rate": 1e6}}, {"is_active": True}, {"id": "x"}],
)
def test_what_operators_set_cannot_be_written(client_of, alice, body):
    response = client_of(alice).patch(URL, {"name": "x"} | body, format="json")

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
    with tenant_scope(alice.organization.id):
        assert Organization.objects.get().name == alice.organization.name


def test_somebody_in_two_organizations_chooses_by_header(client_of, alice, charlie, join):
    join(charlie, alice.organization, "viewer")
    client = client_of(charlie)

    assert client.get(URL).json()["slug"] == charlie.organization.slug
    assert client.get(URL, headers={"X-Organization": alice.organization.slug}).json()["slug"] == alice.organization.slug
    me = client.get("/api/v1/me").json()
    assert [found["slug"] for found in me["organizations"]] == [charlie.organization.slug, alice.organization.slug]
    refused = client.patch(URL, {"name": "x"}, format="json", headers={"X-Organization": alice.organization.slug})
    assert refused.status_code == 403


def test_somebody_in_no_organization_is_told(client_of, make_user):
    client = client_of(make_user("nobody"))

    assert client.get("/api/v1/me").json()["organizations"] == []
    assert (client.get(URL).status_code, client.get(URL).json()["code"]) == (404, "not_found")


def test_an_inactive_person_is_refused(client_of, alice):
    client = client_of(alice)
    alice.is_active = False
    alice.save()

    assert client.get(URL).status_code == 401


def test_a_request_id_is_taken_or_made_and_returned(client_of):
    given = client_of(None).get(URL, headers={"X-Request-Id": "mine-1"})
    assert (given["X-Request-Id"], given.json()["request_id"]) == ("mine-1", "mine-1")
    made = client_of(None).get(URL, headers={"X-Request-Id": "not\tallowed"})
    assert made["X-Request-Id"] == made.json()["request_id"] != "not\tallowed"
