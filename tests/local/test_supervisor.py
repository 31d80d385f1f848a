"""`make run`: what a person at the terminal relies on."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from saas.config import ROOT
from saas.local.preconditions import lock_or_refuse
from saas.local.processes import marked_processes, processes_in
from saas.local.servers import URL_ROLES, embedded_servers
from tests.service import Service, running_service
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(300)]
PARTS = {"postgres", "state", "lanes", "gateway", "worker", "ops", "beat", "bookkeeper", "stripe"}


@pytest.fixture(scope="module")
def fresh():
    """A service of this module's own, which tests may stop, kill and start again."""
    with running_service() as running:
        yield running


@pytest.fixture
def running(fresh):
    return fresh if fresh.is_alive else fresh.start()


def predict(service, rows=((5.1, 3.5, 1.4, 0.2),)):
    """The status of one call to iris."""
    request = urllib.request.Request(
        f"{service.base_url}/api/v1/models/iris/predict",
        json.dumps({"inputs": rows}).encode(),
        {"Authorization": f"Bearer {service.api_key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return repr(error)


def is_answering(service):
    return predict(service) == 200


def nothing_is_left(service):
    directories = [server.directory for server in embedded_servers(service.data_dir)]
    return not marked_processes(service.data_dir) and not any(processes_in(directory) for directory in directories)


def test_when_it_says_ready_it_answers(running):
    assert predict(running) == 200


def test_all_parts_run(running):
    status = running.status()

    assert set(status) == PARTS
    assert all(part["pid"] for part in status.values())


def test_what_it_makes_is_for_its_user_only(running):
    until(lambda: any(running.data_dir.glob("beat-schedule*")), what="the schedule")

    modes = {path: path.lstat().st_mode & 0o077 for path in (running.data_dir, *running.data_dir.rglob("*"))}

    assert {"artifacts", "log", "run", "demo.json"} <= {path.name for path in modes}
    assert [path for path, mode in modes.items() if mode] == []


def test_it_prints_a_curl_that_works_as_it_stands(running):
    lines = running.text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip().startswith("curl "))
    command = "\n".join(lines[first : first + 2])

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["predictions"][0]["label"] == "setosa"


def test_demo_json_is_private_and_complete(running):
    assert set(running.demo) == {"base_url", "organization", "api_key", "admin_username", "admin_password"}
    assert running.demo["base_url"] == running.base_url
    for name in ("demo.json", "environment.json", "secrets.json", "passwords.json", "log/service.log"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) == 0o600, name


def test_the_key_is_not_in_the_log_file(running):
    assert running.api_key not in (running.data_dir / "log" / "service.log").read_text()


def test_the_operator_can_sign_in_to_the_admin(running):
    import requests

    with requests.Session() as session:
        page = session.get(f"{running.base_url}/admin/login/")
        form = {"username": running.demo["admin_username"], "password": running.demo["admin_password"]}
        form["csrfmiddlewaretoken"] = session.cookies["csrftoken"]
        done = session.post(page.url, form, headers={"Referer": page.url}, allow_redirects=False)

        assert done.status_code == 302
        assert session.get(f"{running.base_url}/admin/").status_code == 200


def test_manage_py_works_on_the_running_service(running):
    assert "owner" not in running.manage("showmigrations", "--database", "owner", "--plan", "tenants")
    assert "[X]" in running.manage("showmigrations", "--database", "owner", "--plan", "tenants")


def test_a_second_run_on_the_same_data_is_refused(running):
    done = subprocess.run(
        [sys.executable, "-m", "saas.local", "run"], cwd=ROOT, env=running.given, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "already running" in done.stdout + done.stderr
    assert predict(running) == 200


def test_a_restart_replaces_gateway_and_worker_without_a_failed_call(running):
    before = running.status()
    statuses, stop = [], threading.Event()

    def call():
        while not stop.is_set():
            statuses.append(predict(running))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        running.restart()
    finally:
        stop.set()
        for caller in callers:
            caller.join()

    after = running.status()
    assert set(statuses) == {200}
    assert "worker" not in after
    assert {"ops", "beat", "bookkeeper", "gateway"} < set(after)
    assert after["stripe"]["pid"] == before["stripe"]["pid"]  # it stands for somebody else
    assert after["gateway"]["pid"] == before["gateway"]["pid"]  # gunicorn's master keeps the socket
    assert running.process("worker") != before["worker"]["pid"]


@pytest.mark.parametrize("name", ["gateway", "worker", "ops", "beat", "bookkeeper", "stripe", "postgres", "state", "lanes"])
def test_a_killed_part_comes_back_and_it_is_said(running, name):
    before = running.process(name)

    running.kill(name)

    until(lambda: running.process(name) not in (None, before), what=name)
    until(lambda: is_answering(running), what="an answer")
    assert "was ended by SIGKILL: it is started again" in running.text()


def test_a_kill_9_of_the_supervisor_leaves_nothing_behind_and_the_next_start_keeps_data_and_key(running):
    key = running.api_key
    folders = set((running.data_dir / "tmp").glob("models-*"))

    running.supervisor.kill()
    running.supervisor.wait()

    until(lambda: nothing_is_left(running))
    running.start()
    assert running.api_key == key
    assert predict(running) == 200
    assert folders
    assert not [folder for folder in folders if folder.exists()]


def test_a_start_right_after_a_kill_9_of_the_supervisor_waits_for_its_guard(running):
    running.supervisor.kill()
    running.supervisor.wait()

    running.start()

    assert "started again" not in running.text()
    assert all(part["pid"] for part in running.status().values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_within_ten_seconds(running, number):
    assert running.stop(number) == 0

    assert nothing_is_left(running)
    assert float(running.text().rpartition("stopped in ")[2].split()[0]) < 10


def test_a_stop_during_the_start_ends_it(fresh):
    if fresh.is_alive:
        fresh.stop()
    fresh.launch()
    until(lambda: "starting state" in fresh.text())

    assert fresh.stop() == 0
    assert nothing_is_left(fresh)


def test_a_taken_port_is_a_clear_message(fresh):
    if fresh.is_alive:
        fresh.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", fresh.port))
        taken.listen()
        fresh.launch()

        assert fresh.supervisor.wait(PATIENCE) == 1

    assert f"port {fresh.port} is taken" in fresh.text()
    assert nothing_is_left(fresh)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PORT": "eighty"}, "PORT: Input should be a valid integer"),
        (
            {"DATABASE_URL": "postgresql://somewhere/maas"},
            "DATABASE_OWNER_URL, DATABASE_METERING_URL, DATABASE_OPS_URL must be set",
        ),
        ({"STATE_URL": "redis://:word@127.0.0.1:1/0"}, "not started: STATE_URL names a server that does not answer"),
        ({"LANES_URL": "unix:///nowhere/lanes.sock"}, "not started: LANES_URL names a server that does not answer"),
        (dict.fromkeys(URL_ROLES, "postgresql://maas:word@127.0.0.1:1/maas"), "not started: DATABASE_URL names a server that"),
        ({"ALLOWED_HOSTS": " ,"}, "ALLOWED_HOSTS: Value error, it names no host"),
        ({"DATA_DIR": "/"}, "is open to other users and not empty"),
        ({"DATA_DIR": "/proc/nothing"}, "DATA_DIR cannot be made at /proc/nothing"),
        ({"TIMEOUT_MAX": "20"}, "TIMEOUT_MAX: Value error, it is 20, below TIMEOUT_DEFAULT, which is 30"),
        ({"BODY_MAX_BYTES": "10995116277760"}, "BODY_MAX_BYTES: Input should be less than or equal to 67108864"),
    ],
)
def test_a_broken_environment_is_a_clear_message(variables, reason, tmp_path):
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "data"), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "saas.local", "run"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert reason in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert ":word@" not in done.stdout + done.stderr


def test_once_stop_has_returned_all_has_ended(running):
    done = subprocess.run(
        [sys.executable, "-m", "saas.local", "stop"], cwd=ROOT, env=running.given, check=False, timeout=PATIENCE
    )

    assert done.returncode == 0
    os.close(lock_or_refuse(running.data_dir))
    assert nothing_is_left(running)
    assert running.supervisor.wait(PATIENCE) == 0


@pytest.mark.parametrize("command", ["restart", "status", "stop"])
def test_a_command_without_a_service_says_so(command, tmp_path):
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-m", "saas.local", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "No service is running" in done.stderr


def test_external_servers_replace_the_embedded_ones_and_there_is_no_demo(running):
    addresses = {name: running.environment[name] for name in running.environment if name.endswith("_URL")}
    second = Service(**addresses)
    try:
        second.start()

        assert set(second.status()) == PARTS - {"postgres", "state", "lanes"}
        assert not (second.data_dir / "demo.json").exists()
    finally:
        second.remove()
