"""Organizations that want the same at the same time, on the running platform: how many calls the innocent one waits for."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import requests

from tests.e2e.customers import Customer
from tests.waiting import until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(300)]

TEXT = "Where is the next station, and when does the train to the coast leave? " * 30
LONG, SHORT = {"inputs": [TEXT] * 600}, {"inputs": [TEXT] * 60}  # about a second, a tenth of it: both are slow calls
CLIENTS = 8


class Caller:
    def __init__(self, service):
        customer = Customer(service).unlimited()
        self.url, self.headers = (
            f"{service.base_url}/api/v1/models/language/predict",
            {"Authorization": f"Bearer {customer.key()}"},
        )

    def ask(self, body):
        return requests.post(self.url, json=body, headers=self.headers | {"X-Request-Timeout": "60"}, timeout=90).status_code


def test_the_first_slow_call_of_an_organization_waits_for_two_of_another_that_keeps_all_slow_places_busy(service):
    greedy, innocent = Caller(service), Caller(service)
    assert innocent.ask({"inputs": ["Guten Tag"]}) == 200  # loaded
    answered: list[float] = []
    has_ended = Event()

    def go_on():
        while not has_ended.is_set():
            if greedy.ask(LONG) == 200:
                answered.append(time.monotonic())

    with ThreadPoolExecutor(CLIENTS) as clients:
        try:
            running = [clients.submit(go_on) for _ in range(CLIENTS)]
            until(lambda: len(answered) >= 3)
            began = time.monotonic()
            status = innocent.ask(SHORT)
            ended = time.monotonic()
        finally:
            has_ended.set()
    for each in running:
        each.result()

    assert status == 200
    assert (
        sum(began < at < ended for at in answered) <= 3
    )  # the running one, one that waited, and one that ended as it was sent
