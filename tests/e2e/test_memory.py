"""Customers' models that take too much memory, on a platform that has little for them: who is told what, and who pays."""

import re
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import requests

from inference.engine.memory import machine_bytes
from tests.e2e.customers import Customer
from tests.inference.engine import models
from tests.service import Service
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(300)]

PERCENT = max(1, (1 << 30) * 100 // machine_bytes())  # about a GiB
SHARE = machine_bytes() * PERCENT // 100 // 2
ENDLESS = 10**12


@pytest.fixture(scope="module")
def narrow():
    running = Service(ENGINE_CUSTOMERS_PERCENT=str(PERCENT), ENGINE_ORGANIZATION_PERCENT="50")
    try:
        yield running.start()
    finally:
        running.remove()


class Caller:
    """Calls of a model that holds as much memory, for as long, as it is told."""

    def __init__(self, service):
        self.customer = Customer(service).unlimited()
        self.headers = {"Authorization": f"Bearer {self.customer.key()}"}
        self.customer.upload("hoard", models.hoarding().artifact)

    def ask(self, held=4, rounds=1, *, seconds=60, request_id=""):
        body = {
            "inputs": [
                {"name": "count", "datatype": "INT64", "shape": [1], "data": [held // 4]},
                {"name": "trips", "datatype": "INT64", "shape": [], "data": [rounds]},
            ]
        }
        headers = self.headers | {"X-Request-Timeout": str(seconds), "X-Request-Id": request_id or uuid4().hex}
        url = f"{self.customer.base_url}/v2/models/hoard/infer"
        return requests.post(url, json=body, headers=headers, timeout=2 * PATIENCE)


def metric(service, name):
    """Of the one worker, or 0."""
    text = requests.get(f"{service.base_url}/metrics", timeout=PATIENCE).text
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_model_that_grows_too_large_ends_alone_and_one_that_finds_no_memory_is_refused(narrow):
    one, two, three = (Caller(narrow) for _ in range(3))
    assert [each.ask().status_code for each in (one, two, three)] == [200] * 3

    grown = one.ask(SHARE + (64 << 20), ENDLESS, request_id="grown")
    assert (grown.status_code, grown.json()["code"]) == (500, "out_of_memory")
    assert one.ask(request_id="after").status_code == 200
    until(lambda: metric(narrow, "maas_customers_memory_ended_total") == 1)

    with ThreadPoolExecutor(2) as clients:
        held = SHARE * 95 // 100 - (32 << 20)
        busy = [clients.submit(each.ask, held, ENDLESS, seconds=20) for each in (one, two)]
        until(lambda: metric(narrow, "maas_customers_memory_held_bytes") > 2 * held)
        refused = three.ask()
        assert (refused.status_code, refused.json()["code"]) == (503, "memory_exhausted")
        assert int(refused.headers["Retry-After"]) >= 1
        assert {each.result().status_code for each in busy} == {504}  # nobody ended them before their deadline

    until(lambda: three.ask().status_code == 200)
    assert metric(narrow, "maas_customers_memory_held_bytes") <= metric(narrow, "maas_customers_memory_limit_bytes")
    charged = until(lambda: found if "after" in (found := {row[0] for row in one.customer.ledger()}) else None)
    assert "grown" not in charged
