"""Operators read the ledger in the admin and change nothing there."""

import pytest

from tests.billing.journal import settle, usage

PAGES = [
    "usageevent", "usagehour", "usagemonth", "usagerollup", "journalposition", "journalquarantine",
    "quotachange", "stripepush", "reconrun", "invoice", "stripeevent", "budget", "creditmonth", "alertfired",
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_table_has_a_page(operator, page):
    response = operator.get(f"/admin/billing/{page}/")

    assert response.status_code == 200
    assert operator.get(f"/admin/billing/{page}/add/").status_code == 403


def test_a_call_can_be_found_and_not_changed(operator, state, journal, tenant):
    record = usage(tenant)
    journal.add(record)
    settle(state, journal.name)

    found = operator.get("/admin/billing/usageevent/", {"q": record.request_id})
    assert str(tenant) in found.content.decode()
    url = f"/admin/billing/usageevent/{record.call}/change/"
    assert operator.get(url).status_code == 200
    assert operator.post(url, {"rows": "0"}).status_code == 403
    assert operator.post(url.replace("change", "delete"), {"post": "yes"}).status_code == 403


def test_the_limits_of_an_organization_are_shown_with_what_is_left(operator, make_organization, make_key):
    organization = make_organization(max_keys=4)
    make_key(organization)

    page = operator.get(f"/admin/tenants/organization/{organization.id}/change/").content.decode()

    assert "<tr><th>keys</th><td>4</td><td>1</td><td>3</td></tr>" in page
    assert "<tr><th>stored_bytes</th><td>21,474,836,480</td><td>0</td><td>21,474,836,480</td></tr>" in page
