"""The gateway without key check, limits, books and log, beside a whole service: the same answers, and nothing left behind."""

import os
import secrets
import subprocess
import sys

import pytest
import requests

from saas.config import ROOT
from tests.service import Service, free_port
from tests.waiting import until

pytestmark = pytest.mark.no_servers
ROW = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture
def bare(service: Service, tmp_path):
    """Its address."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", "saas/gunicorn.py", "benchmarks.bare:application"]
    environment = {**os.environ, **service.environment, "PORT": str(port)}
    with (tmp_path / "bare.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: is_ready(url), what="the bare gateway")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def is_ready(url):
    try:
        return requests.get(f"{url}/readyz", timeout=10).ok
    except requests.ConnectionError:
        return False


def ask(url, service):
    """The predictions, and the id of the request."""
    headers = {"Authorization": f"Bearer {service.api_key}", "X-Request-Id": f"bare-{secrets.token_hex(8)}"}
    answer = requests.post(f"{url}/api/v1/models/iris/predict", json=ROW, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Request-Id"] == headers["X-Request-Id"]
    return answer.json()["predictions"], headers["X-Request-Id"]


def is_in_ledger(service, request_id):
    return service.rows("SELECT count(*) FROM usage_event WHERE request_id = %s", request_id)[0][0] == 1


def test_it_answers_as_the_service_does_and_leaves_nothing_in_the_ledger(service, bare):
    answers = [ask(bare, service) for _ in range(5)]
    right, later = ask(service.base_url, service)

    assert all(predictions == right for predictions, _ in answers)
    until(lambda: is_in_ledger(service, later), what="the service's own call in the ledger")
    assert not any(is_in_ledger(service, request_id) for _, request_id in answers)
