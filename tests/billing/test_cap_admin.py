"""Operators give credit in the admin, with who and why; they change nothing of it."""

import pytest

from billing.caps.models import CreditGrant
from inference.books import accounts
from tenants.databases import as_operator
from tenants.models import AuditEvent

ADD = "/admin/billing/creditgrant/add/"


@pytest.fixture
def good(alice):
    return {"slug": alice.organization.slug, "amount": "12.5", "category": "promotional", "priority": "5", "reason": "welcome"}


def grants_of(organization) -> list[CreditGrant]:
    with as_operator():
        return list(CreditGrant.objects.of(organization))


def test_credit_is_given_at_once_with_who_and_why(operator, alice, good):
    from billing.sale import plans
    from tenants.access import SYSTEM

    plans.change(alice.organization.id, "prepaid", actor=SYSTEM)
    assert operator.get(ADD).status_code == 200

    response = operator.post(ADD, good)

    assert response.status_code == 302
    [grant] = grants_of(alice.organization)
    assert (grant.amount_nano, grant.remaining_nano, grant.priority) == (12_500_000_000, 12_500_000_000, 5)
    assert (grant.reason, grant.actor.partition(" ")[0]) == ("welcome", "operator")
    assert accounts.read(alice.organization.id.hex).limits.credit_nano == 12_500_000_000
    with as_operator():
        [event] = AuditEvent.objects.of(alice.organization).filter(action="credit.granted")
    assert (event.target, event.details["amount"], event.actor_kind) == (grant.shown_id, "12.50", "operator")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", "0"), ("amount", "-1"), ("amount", "9000001"), ("amount", "0.0000000001"), ("amount", "NaN"), ("amount", ""),
        ("slug", "nobody-has-this"), ("category", "gift"), ("reason", ""), ("priority", "high"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_is_refused_at_its_field(operator, alice, good, field, value):
    response = operator.post(ADD, good | {field: value})

    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors
    assert grants_of(alice.organization) == []


def test_credit_that_has_ended_is_refused(operator, alice, good):
    response = operator.post(ADD, good | {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"})

    assert "expires_at" in response.context["adminform"].form.errors


def test_a_grant_is_never_changed(operator, alice, good):
    operator.post(ADD, good)
    [grant] = grants_of(alice.organization)
    url = f"/admin/billing/creditgrant/{grant.pk}"

    assert operator.get(f"{url}/change/").status_code == 200
    assert operator.post(f"{url}/change/", good).status_code == 403
    assert operator.post(f"{url}/delete/", {"post": "yes"}).status_code == 403


def test_the_admin_is_the_operators_alone(client_of, alice, good):
    assert client_of(alice).post(ADD, good).status_code == 302
    assert grants_of(alice.organization) == []
