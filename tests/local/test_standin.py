"""The stand-in for Stripe beside a local service: where it is, and when there is none."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
import urllib.request

import pytest
import redis

from saas.config import ROOT
from saas.local.standin import standin_environment
from tests.service import free_port
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers


def ask(variables, path, **params):
    body = "&".join(f"{name}={value}" for name, value in params.items()).encode() or None
    headers = {"Authorization": f"Bearer {variables['STRIPE_SECRET_KEY']}", "Connection": "close"}
    request = urllib.request.Request(variables["STRIPE_API_BASE"] + path, body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def listens(variables):
    try:
        return ask(variables, "/_standin/clock")["now"]
    except OSError:
        return None


def test_with_a_key_of_stripe_there_is_none(tmp_path):
    assert standin_environment(tmp_path, {"STRIPE_SECRET_KEY": "sk_live_1"}) == {}
    assert list(tmp_path.iterdir()) == []


def test_key_and_address_are_kept_and_private(tmp_path):
    first = standin_environment(tmp_path, {})

    assert standin_environment(tmp_path, {}) == first
    assert stat.S_IMODE((tmp_path / "standin.json").stat().st_mode) == 0o600


def test_a_taken_port_is_replaced(tmp_path):
    first = standin_environment(tmp_path, {})
    port = int(first["STRIPE_API_BASE"].rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        second = standin_environment(tmp_path, {})

    assert second["STRIPE_API_BASE"] != first["STRIPE_API_BASE"]
    assert second["STRIPE_SECRET_KEY"] == first["STRIPE_SECRET_KEY"]
    assert standin_environment(tmp_path, {}) == second


@pytest.fixture
def process(tmp_path):
    """`process()`: the stand-in as `make run` starts it, on this test's data; it ends with the test."""
    started = []

    def start(**more):
        variables = standin_environment(tmp_path, {})
        environment = {**os.environ, **variables, "DATA_DIR": str(tmp_path), "PORT": str(free_port()), **more}
        child = subprocess.Popen([sys.executable, "-m", "saas.local.stripe"], cwd=ROOT, env=environment)
        started.append(child)

        until(lambda: listens(variables), what="the stand-in")
        return variables, child

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_a_kill_loses_nothing_that_was_answered(process):
    variables, child = process()
    made = ask(variables, "/v1/customers", email="a@example.org")
    child.kill()
    child.wait()
    variables, child = process()

    assert ask(variables, f"/v1/customers/{made['id']}") == made
    child.terminate()
    assert child.wait(PATIENCE) == 0


def test_it_imports_neither_django_nor_the_sdk():
    program = "import saas.local.stripe.__main__, sys; print({'django', 'stripe', 'redis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_its_clock_moves_the_platforms(running_service_of_tests):
    service = running_service_of_tests
    ahead = ask(service.environment, "/_standin/clock", by=3 * 86_400)["now"]

    with redis.Redis.from_url(service.environment["STATE_URL"]) as state:
        offset = int(state.get("clock:offset"))
    assert ahead - 60 < time.time() + offset / 1000
    assert ask(service.environment, "/_standin/clock")["now"] >= ahead


def test_the_first_words_name_its_address(running_service_of_tests):
    service = running_service_of_tests

    assert f"the stand-in for Stripe at {service.environment['STRIPE_API_BASE']}" in service.text()


@pytest.fixture(scope="module")
def running_service_of_tests():
    """A service of its own: its clock is moved."""
    from tests.service import running_service

    with running_service() as running:
        until(lambda: listens(running.environment), what="the stand-in, which starts last")
        yield running
