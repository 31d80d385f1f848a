"""A closed organization reads and exports all that it has, pays, and takes rights away; it changes nothing else."""

import pytest
from django.urls import get_resolver

from tests.isolation.routes import MANAGEMENT
from tests.isolation.test_matrix import send
from tests.isolation.world import walk

READS = [route for route in MANAGEMENT if route.startswith("GET ")]
STILL = {
    "POST /api/v1/billing/plan",
    "POST /api/v1/billing/cancel",
    "DELETE /api/v1/billing/cancel",
    "POST /api/v1/billing/checkout",
    "POST /api/v1/billing/portal",
    "DELETE /api/v1/keys/{key}",
    "DELETE /api/v1/members/{member}",
    "DELETE /api/v1/invitations/{invitation}",
    "POST /api/v1/invitations/accept",  # of a person, into whichever organization
}
"""The reviewed list of what a closed organization may still change."""


@pytest.fixture(scope="module")
def closed(world):
    from billing.sale import plans
    from tenants.access import Actor

    plans.set_state(world.organization.id, "closed", actor=Actor("system", "test"))
    return world


@pytest.mark.parametrize("route", [route for route in MANAGEMENT if route not in READS and route not in STILL])
def test_nothing_can_be_changed(closed, client_of, route):
    before = closed.state()
    answer = send(client_of(closed.key_text), route, closed.names())

    assert (answer.status_code, answer.json()["code"]) == (402, "account_closed"), answer.content
    assert "portal" in answer.json()["detail"]
    assert closed.state() == before


@pytest.mark.parametrize("route", READS)
def test_everything_can_be_read(closed, client_of, route):
    answer = send(client_of(closed.key_text), route, closed.names())

    assert answer.status_code not in (402, 403), answer.content


def test_what_is_allowed_is_the_reviewed_list():
    views = dict(walk(get_resolver().url_patterns))
    allowed = {route for route in MANAGEMENT if route.split()[0] in getattr(views[route.split()[1]].cls, "when_closed", ())}

    assert allowed == STILL - {"POST /api/v1/invitations/accept"}


def test_a_key_that_leaked_can_be_revoked_and_a_bill_be_paid(closed, client_of, make_key):
    leaked, _ = make_key(closed.organization)

    names = closed.names() | {"key": leaked.shown_id}
    assert send(client_of(closed.alice), "DELETE /api/v1/keys/{key}", names).status_code == 204
    paid = send(client_of(closed.alice), "POST /api/v1/billing/portal", closed.names())
    assert paid.json().get("code") in (None, "payments_unavailable")  # as far as Stripe is set up here
