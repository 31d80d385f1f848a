"""Processes killed under load: nothing is lost, charged twice or charged without an answer, and service returns by itself."""

import asyncio
import time

import pytest
import requests

from tests.e2e.customers import Customer, identity_model
from tests.e2e.history import Caller, Load, check
from tests.e2e.test_exactness import settled

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(600)]

BACK_WITHIN = 10.0  # seconds from the kill to the next good answer


@pytest.fixture(scope="module")
def customers(service):
    made = [Customer(service).unlimited() for _ in range(2)]
    for number, customer in enumerate(made):
        customer.upload(f"fault-{number}", identity_model())
    return made


@pytest.mark.parametrize("part", ["worker", "gateway", "bookkeeper", "lanes", "state", "postgres", "ops"])
def test_a_killed_part_loses_nothing_and_comes_back(service, customers, part):
    callers = [Caller(customer.organization, customer.key(), f"fault-{number}") for number, customer in enumerate(customers)]
    load = Load(service.base_url, callers, seed=11, timeout=40.0)

    async def disturbed():
        running = asyncio.create_task(load.run(100_000, in_flight=32, until=time.monotonic() + 8))
        await asyncio.sleep(2)
        await asyncio.to_thread(service.kill, part)
        killed = time.monotonic()
        await asyncio.to_thread(_until_it_answers, service)
        back = time.monotonic() - killed
        return await running, back

    before = {row[0] for row in settled(service, customers)}
    history, back = asyncio.run(disturbed())
    rows = [row for row in settled(service, customers) if row[0] not in before]

    assert back < BACK_WITHIN
    assert check(history, rows, is_disturbed=True)[:20] == []
    assert history.statuses()["infer", 200] > 100
    service.manage("verify_books")


def _until_it_answers(service):
    body = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
    url, headers = f"{service.base_url}/api/v1/models/iris/predict", {"Authorization": f"Bearer {service.api_key}"}
    deadline = time.monotonic() + 30
    good = 0
    while good < 3:
        assert time.monotonic() < deadline
        try:
            response = requests.post(url, json=body, headers=headers | {"X-Request-Timeout": "3"}, timeout=5)
            good = good + 1 if response.status_code == 200 else 0
        except requests.RequestException:
            good = 0
        time.sleep(0.05)
