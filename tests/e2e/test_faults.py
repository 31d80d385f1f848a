"""Processes killed under load: nothing is lost, charged twice or charged without an answer, and service returns by itself."""

import asyncio
import time

import pytest
import requests

from tests.e2e.customers import Customer, identity_model
from tests.e2e.history import Caller, Load, check
from tests.e2e.test_exactness import settled
from tests.waiting import until, until_async

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def customers(service):
    made = [Customer(service).unlimited() for _ in range(2)]
    for number, customer in enumerate(made):
        customer.upload(f"fault-{number}", identity_model())
    return made


@pytest.mark.parametrize("part", ["worker", "gateway", "bookkeeper", "lanes", "state", "postgres", "ops"])
def test_a_killed_part_loses_nothing_and_comes_back(service, customers, part, record_property):
    callers = [Caller(customer.organization, customer.key(), f"fault-{number}") for number, customer in enumerate(customers)]
    load = Load(service.base_url, callers, seed=11, timeout=40.0)

    async def disturbed():
        running = asyncio.create_task(load.run(100_000, in_flight=32))
        await until_async(lambda: load.answered > 100)
        await asyncio.to_thread(service.kill, part)
        killed, answered = time.monotonic(), load.answered
        await asyncio.to_thread(until, lambda: _answers(service))
        record_property("seconds until it answered again", round(time.monotonic() - killed, 2))
        await until_async(lambda: load.answered > answered + 100)
        load.stop()
        return await running

    before = {row[0] for row in settled(service, customers)}
    history = asyncio.run(disturbed())
    rows = [row for row in settled(service, customers) if row[0] not in before]

    assert check(history, rows, is_disturbed=True)[:20] == []
    service.manage("verify_books")


def _answers(service):
    """Three good answers in a row."""
    body = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
    url, headers = f"{service.base_url}/api/v1/models/iris/predict", {"Authorization": f"Bearer {service.api_key}"}
    try:
        return all(requests.post(url, json=body, headers=headers, timeout=5).status_code == 200 for _ in range(3))
    except requests.RequestException:
        return False
