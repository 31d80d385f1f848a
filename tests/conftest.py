"""What all tests share: a real PostgreSQL, two real Valkeys, and Django on top of them.

The addresses are decided here, before anything of Django is imported; the servers are started by the first test that is not
marked `no_servers`. Nothing is cleaned or rolled back between tests: each one makes its own organizations.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
import redis
from django.conf import settings

from saas.local.processes import Guard
from saas.local.servers import embedded_servers, spawn, wait_ready
from tests.service import Service, running_service
from tests.side_by_side import ByFile, in_order
from tests.waiting import PATIENCE

DATA_DIR = Path(tempfile.mkdtemp(prefix="model-service-tests-"))
SERVERS = embedded_servers(DATA_DIR, is_durable=False)
GUARD = Guard(DATA_DIR, [server.directory for server in SERVERS])  # ends the servers if the tests are killed

os.environ.update({name: url for server in SERVERS for name, url in server.urls().items()})
os.environ.update(DJANGO_SETTINGS_MODULE="saas.settings", DEBUG="1", DATA_DIR=str(DATA_DIR))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "no_servers: needs neither PostgreSQL nor Valkey.")
    django.setup()  # before test modules import models; it opens no connection
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a slow one would be all of the time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    del os.environ["DJANGO_SETTINGS_MODULE"]  # or pytest-django would read the settings before a process has its own servers


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        in_order(items)


def pytest_unconfigure() -> None:
    SERVERS[0].home.remove()
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    GUARD.dismiss()


@pytest.fixture(scope="session")
def embedded(django_db_blocker) -> Iterator[dict[str, str]]:
    """The running servers, with the tables of all migrations; their addresses by the environment's names."""
    processes = []
    with (DATA_DIR / "servers.log").open("wb") as log:
        try:
            for server in SERVERS:
                server.prepare()
                processes.append(spawn(server, DATA_DIR, output=log.fileno()))
            for server, process in zip(SERVERS, processes, strict=True):
                wait_ready(server, process)
            SERVERS[0].create_database()
            with django_db_blocker.unblock():
                _migrate()
                yield {name: url for server in SERVERS for name, url in server.urls().items()}
                _close_connections()
        finally:
            for server, process in zip(SERVERS, processes, strict=False):
                process.send_signal(server.stop_signal)
            for process in processes:
                _wait(process)


def _migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", database="owner", verbosity=0)


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(autouse=True)
def _servers(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("no_servers") is None:
        request.getfixturevalue("embedded")


@pytest.fixture
def state(embedded: dict[str, str]) -> Iterator[redis.Redis]:
    """A client of the durable Valkey. Shared by all tests: use names of your own."""
    with redis.Redis.from_url(embedded["STATE_URL"]) as client:
        yield client


@pytest.fixture
def lanes(embedded: dict[str, str]) -> Iterator[redis.Redis]:
    """A client of the volatile Valkey. Shared by all tests: use names of your own."""
    with redis.Redis.from_url(embedded["LANES_URL"]) as client:
        yield client


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The whole platform, running, on servers of its own: for tests over HTTP. Tests of it alone are marked `no_servers`."""
    with running_service() as running:
        yield running


@pytest.fixture
def make_organization(embedded):
    """`make_organization(slug=None, owner=None, **limits)`: a new one; `limits` as its columns."""
    from django.db import transaction

    from tenants.actions import create_organization

    def make(slug=None, *, owner=None, **limits):
        slug = slug or f"org-{secrets.token_hex(6)}"
        with transaction.atomic():
            return create_organization(name=slug, slug=slug, owner=owner, **limits)

    return make


@pytest.fixture
def make_key(embedded):
    """`make_key(organization, **columns)`: an API key and its text; by default with every scope."""
    from tenants import keys
    from tenants.permissions import SCOPES
    from tenants.scope import tenant_scope

    def make(organization, **columns):
        with tenant_scope(organization.id):
            return keys.issue(organization=organization, **({"name": "test", "scopes": SCOPES} | columns))

    return make


@pytest.fixture
def make_user(embedded):
    """`make_user(name)`: a person with a random address and no password."""
    from tenants.models import User

    return lambda name: User.objects.create_user(f"{name}-{secrets.token_hex(6)}@example.org", name=name)


@pytest.fixture
def join(embedded):
    """`join(user, organization, role)`: make somebody a member."""
    from tenants.models import Membership
    from tenants.scope import tenant_scope

    def add(user, organization, role="developer"):
        with tenant_scope(organization.id):
            Membership.objects.create(organization=organization, user=user, role=role)
        return user

    return add


@pytest.fixture
def alice(make_user, make_organization):
    """Owns an organization, `alice.organization`."""
    user = make_user("alice")
    user.organization = make_organization(f"alice-{secrets.token_hex(6)}", owner=user)
    return user


@pytest.fixture
def bob(make_user, join, alice):
    """A developer in Alice's organization."""
    return join(make_user("bob"), alice.organization)


@pytest.fixture
def charlie(make_user, make_organization):
    """A stranger to Alice, who owns another organization, `charlie.organization`."""
    user = make_user("charlie")
    user.organization = make_organization(f"charlie-{secrets.token_hex(6)}", owner=user)
    return user


@pytest.fixture
def client_of(embedded):
    """`client_of(user)`, `client_of("maas_live_…")` or `client_of(None)`: signed in, with that key, or with nothing."""
    from rest_framework.test import APIClient

    def client(who):
        client = APIClient()
        if isinstance(who, str):
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {who}")
        elif who is not None:
            client.force_login(who)
        return client

    return client


@pytest.fixture
def operator(embedded: None):
    """Signed in to the admin."""
    from django.test import Client

    from tenants.models import User

    user = User(email=f"{secrets.token_hex(16)}@example.org", is_staff=True, is_superuser=True)
    user.set_unusable_password()
    user.save(using="ops")
    client = Client()
    client.force_login(user)
    return client
