"""A load of mixed calls, then the books: one row per answer, none for anything else, each answer right and its caller's own."""

import asyncio
import os
from datetime import UTC, datetime

import pytest

from tests.e2e.customers import Customer, identity_model
from tests.e2e.history import Caller, Load, check
from tests.waiting import until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(600)]

CALLS = int(os.environ.get("E2E_CALLS", "10000"))
SEED = int(os.environ.get("E2E_SEED", "3"))


@pytest.fixture(scope="module")
def customers(service):
    made = [Customer(service).unlimited() for _ in range(3)]
    for number, customer in enumerate(made):
        customer.upload(f"identity-{number}", identity_model())
    return made


@pytest.fixture(scope="module")
def callers(customers):
    return [
        Caller(customer.organization, customer.key(), f"identity-{number}")
        for number, customer in enumerate(customers)
        for _ in range(4)
    ]


def settled(service, customers):
    """No call is open, and the journal is in the ledger."""

    def is_settled() -> bool:
        with service.state() as state:
            open_calls = [name for key in state.scan_iter("open:*") for name in state.hkeys(key) if len(name) == 32]
            return not open_calls and state.xlen("journal") == 0

    until(is_settled, what="the books' rest")
    return [row for customer in customers for row in customer.ledger()]


def test_each_answer_is_right_and_has_exactly_one_row(service, customers, callers):
    load = Load(service.base_url, callers, seed=SEED)
    history = asyncio.run(load.run(CALLS, in_flight=64))
    rows = settled(service, customers)

    assert check(history, rows)[:20] == []
    statuses = history.statuses()
    assert statuses["infer", 200] > CALLS / 5, statuses
    assert statuses["again", 200] > 0, statuses
    assert all(status == 404 for kind, status in statuses if kind == "foreign"), statuses
    assert all(status == 401 for kind, status in statuses if kind == "nobody"), statuses
    assert all(status == 400 for kind, status in statuses if kind == "bad"), statuses


def test_the_usage_endpoint_and_the_accounts_agree_with_the_ledger(service, customers, callers):
    settled(service, customers)
    ended = datetime.now(UTC)
    for customer in customers:

        def usage(customer=customer):
            return customer.get("usage", params={"group_by": "key,model"}).json()

        until(lambda usage=usage: datetime.fromisoformat(usage()["as_of"]) > ended, what="the hours behind the ledger")
        results = usage()["results"]
        calls, reversed_ = sum(r["calls"] for r in results), sum(r["reversed"] for r in results)
        kinds = [kind for _, kind, _ in customer.ledger()]
        assert (calls, reversed_) == (kinds.count("usage"), kinds.count("reversed"))
    service.manage("verify_books")  # raises where an account, the ledger, the journal and open calls disagree
