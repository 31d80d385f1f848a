"""The embedded servers: who may reach them, and that they come back after a kill -9."""

import os
import signal
import stat
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis

from saas.local import home as homes
from saas.local.processes import marked_processes, processes_in
from saas.local.servers import URL_ROLES, Postgres, Valkey, embedded_servers, spawn, wait_ready
from tests.waiting import PATIENCE

pytestmark = pytest.mark.no_servers


class Running:
    """One embedded server under test, in a data directory of its own."""

    def __init__(self, server, data_dir):
        self.server, self.data_dir, self.process = server, data_dir, None

    def start(self):
        self.server.prepare()
        self.process = spawn(self.server, self.data_dir, output=subprocess.DEVNULL)
        wait_ready(self.server, self.process)
        return self

    def signal(self, number):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def data_dir():
    path = Path(tempfile.mkdtemp(prefix="model-service-tests-"))
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def servers(data_dir):
    running = [Running(server, data_dir) for server in embedded_servers(data_dir, is_durable=False)]
    yield running
    for one in running:
        if one.process and one.process.poll() is None:
            one.signal(signal.SIGINT)
        assert processes_in(one.server.directory) == set()
    running[0].server.home.remove()


@pytest.fixture
def postgres(servers):
    return servers[0].start()


@pytest.fixture
def state(servers):
    return servers[1].start()


def client(running):
    return redis.Redis.from_url(running.server.url)


def value_of(postgres, statement):
    with closing(postgres.server.connect("postgres")) as session, session.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def test_postgres_asks_for_the_password(postgres):
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host=str(postgres.server.home.sockets), dbname="postgres", user="postgres", password="wrong")


def test_postgres_listens_on_no_port(postgres):
    assert value_of(postgres, "SHOW listen_addresses") == ""


def test_each_role_can_sign_in_and_none_is_a_superuser(postgres):
    postgres.server.create_database()

    for name, role in URL_ROLES.items():
        with closing(psycopg2.connect(postgres.server.urls()[name])) as session, session.cursor() as cursor:
            cursor.execute("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
            assert cursor.fetchone() == (role, False)


def test_create_database_can_be_repeated(postgres):
    postgres.server.create_database("twice")
    postgres.server.create_database("twice")

    assert value_of(postgres, "SELECT count(*) FROM pg_database WHERE datname = 'twice'") == 1


def test_postgres_keeps_committed_rows_after_kill_9(postgres):
    with closing(postgres.server.connect("postgres")) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    postgres.signal(signal.SIGKILL)
    postgres.start()

    assert value_of(postgres, "SELECT answer FROM kept") == 42


def test_a_postgres_that_an_earlier_owner_left_is_ended_first(postgres):
    left_behind = postgres.process
    again = Running(Postgres(postgres.server.home, postgres.server.passwords), postgres.data_dir).start()

    assert left_behind.wait(PATIENCE) is not None  # 0, or 1 on a machine so slow that it was told a second time
    assert value_of(again, "SELECT 1") == 1
    again.signal(signal.SIGINT)


def test_state_keeps_what_it_confirmed_after_kill_9(state):
    with client(state) as redis_client:
        for number in range(100):
            redis_client.xadd("journal", {"r": str(number)})

    state.signal(signal.SIGKILL)
    state.start()

    with client(state) as redis_client:
        assert redis_client.xlen("journal") == 100


def test_a_state_that_an_earlier_owner_left_is_ended_first(state):
    left_behind = state.process
    again = Running(Valkey(state.server.home, "state", is_durable=True, memory=256 << 20), state.data_dir).start()

    assert left_behind.wait(PATIENCE) is not None
    again.signal(signal.SIGTERM)


def test_state_refuses_writes_instead_of_forgetting(state):
    with client(state) as redis_client:
        assert redis_client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert int(redis_client.config_get("maxmemory")["maxmemory"]) > 0
        assert redis_client.config_get("appendfsync")["appendfsync"] == "always"


def test_lanes_writes_no_file(servers):
    lanes = servers[2].start()
    with client(lanes) as redis_client:
        redis_client.set("payload", "secret")

    lanes.signal(signal.SIGTERM)

    assert list(lanes.server.directory.iterdir()) == []


def test_the_data_and_the_sockets_are_closed_to_others(servers):
    for running in servers:
        running.start()

    home = servers[0].server.home
    for path in (home.sockets, *(one.server.directory for one in servers)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_passwords_are_kept_and_private(data_dir, servers):
    file = data_dir / "passwords.json"
    before = file.read_text()

    embedded_servers(data_dir)

    assert file.read_text() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_server_carries_the_mark_of_its_data_directory(data_dir, state):
    assert state.process.pid in marked_processes(data_dir)


def test_a_server_gets_no_secret_in_its_environment(state, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "of-the-platform")
    state.signal(signal.SIGTERM)
    state.start()

    assert b"of-the-platform" not in Path(f"/proc/{state.process.pid}/environ").read_bytes()


def test_a_long_path_gets_a_short_directory_for_its_sockets():
    deep = Path(tempfile.mkdtemp(prefix="model-service-tests-")) / ("deep" * 30)
    path = homes.socket_directory(deep / "run", None, deep)

    assert len(os.fsencode(path / homes.LONGEST_SOCKET)) <= homes.MAX_SOCKET_PATH
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.rmdir()
    deep.parent.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")
class TestAsRoot:
    def test_the_servers_run_as_a_user_without_account(self, postgres):
        uid = Path(f"/proc/{postgres.process.pid}").stat().st_uid

        assert uid == postgres.server.home.uid
        assert uid in homes.UIDS
        assert not homes._is_known(uid)

    def test_their_binaries_are_not_theirs_to_change(self, servers):
        home = servers[0].server.home
        for path in (home.valkey, home.postgres / "bin" / "postgres", home.root):
            assert path.stat().st_uid == 0
            assert not path.stat().st_mode & 0o022, path

    def test_the_user_is_kept_and_two_checkouts_have_different_ones(self, data_dir, servers):
        other = Path(tempfile.mkdtemp(prefix="model-service-tests-"))
        theirs = embedded_servers(other)[0].home
        ours = servers[0].server.home

        assert embedded_servers(data_dir)[0].home.uid == ours.uid != theirs.uid
        theirs.remove()
        subprocess.run(["rm", "-rf", other], check=True)

    def test_no_directory_above_is_loosened(self, data_dir):
        above = [*data_dir.parents, data_dir, Path("/var/lib"), *Path(homes.__file__).parents]
        before = {path: path.stat().st_mode for path in above}

        home = embedded_servers(data_dir)[0].home

        assert {path: path.stat().st_mode for path in above} == before
        home.remove()
