"""Workers as real processes that a catalogue version kills, and what those do that come next."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from inference.engine.child_resident import ChildResident
from inference.engine.recorder import PLACES, Recorder
from inference.engine.residency import LocalResident
from inference.host import Host
from inference.lanes import lane_key, pool_key
from inference.suspects import SECONDS, SUSPECTS, Suspects
from saas.config import ROOT
from saas.lib.ids import uuid7
from tests.inference.engine import models
from tests.inference.engine.models import row
from tests.inference.engine.test_host import gateway, server, start, store  # noqa: F401
from tests.waiting import PATIENCE, until

# ruff: noqa: F811 - fixtures of test_host

pytestmark = pytest.mark.no_servers
LETHAL = (-(2**31), -1)


def serve(url, folder, versions):
    """In a process of its own."""
    Host("worker", url, lambda version, owner: versions.get(version), recorder=Recorder(folder)).start()
    signal.pause()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "running"


@pytest.fixture
def worker(server, store, folder):
    """Starts another worker of the machine; it is ended with the test."""
    processes = []

    def start_worker():
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(server.url, folder, dict(store.versions)))
        process.start()
        processes.append(process)
        return process

    yield start_worker
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def dead(folder):
    """Leaves what a worker leaves that dies while it runs these versions, or has closed its recorder before."""

    def die(*versions, is_in_order=False):
        script = "import os, sys; from pathlib import Path; from inference.engine.recorder import Recorder\n"
        script += "made = Recorder(Path(sys.argv[1])); [made.begin(version) for version in sys.argv[2:]]\n"
        script += "made.close()\n" if is_in_order else ""
        script += f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
        ended = subprocess.run([sys.executable, "-c", script, folder, *versions], cwd=ROOT)
        assert ended.returncode == -signal.SIGKILL

    return die


def kill(gateway, worker, killer):
    """Let a call end the worker; its own reply never comes."""
    process = worker()
    gateway.reply(gateway.push_pairs(killer, [(6, 3)])[0])
    gateway.push_pairs(killer, [LETHAL])
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGFPE


def test_what_killed_a_worker_kills_no_second_one_and_its_calls_fail_alone(gateway, store, start, worker, folder):
    killer, other = store.add(models.quotient()), store.add(models.linear())
    kill(gateway, worker, killer)
    host = start(recorder=Recorder(folder))
    x = row(1, 2, 3, 4)

    numbers = gateway.push_pairs(killer, [LETHAL, (6, 3)])
    bystander = gateway.push(other, x)

    assert gateway.reply(numbers[0]).code == "model_failed"
    assert "SIGFPE" in gateway.replies[numbers[0]].message
    assert gateway.answer(numbers[1]).tolist() == [2]
    np.testing.assert_allclose(gateway.answer(bystander), x @ models.WEIGHTS, rtol=1e-5)
    assert host.report().suspects == [killer.version]
    assert isinstance(host._residency.get(killer.version), ChildResident)
    assert isinstance(host._residency.get(other.version), LocalResident)


def test_the_machines_other_worker_takes_it_out_of_its_process_and_lives(gateway, store, start, worker, folder):
    killer, other = store.add(models.quotient()), store.add(models.linear())
    kill(gateway, worker, killer)
    host = start(recorder=Recorder(folder.with_name("another")))  # as if it had looked before
    gateway.client.delete(SUSPECTS)
    assert gateway.answer(gateway.push_pairs(killer, [(6, 3)])[0]).tolist() == [2]
    gateway.answer(gateway.push(other, row(1, 2, 3, 4)))
    assert isinstance(host._residency.get(killer.version), LocalResident)

    Suspects(gateway.client, Recorder(folder)).look()

    until(lambda: not isinstance(host._residency.get(killer.version), LocalResident))
    for _ in range(3):
        number = gateway.push_pairs(killer, [LETHAL])[0]
        assert gateway.reply(number).code == "model_failed"
    gateway.answer(gateway.push(other, row(1, 2, 3, 4), key=lane_key(other.version)))


def test_predictions_of_a_suspect_run_apart_as_well(gateway, store, start, dead, folder):
    killer = store.add(models.quotient())
    dead(killer.version)
    start(recorder=Recorder(folder))

    numbers = gateway.push_pairs(killer, [(6, 3), LETHAL, (8, 2)], key=pool_key("cpu", low=True))

    assert [gateway.reply(number).code for number in numbers] == ["", "model_failed", ""]


def test_two_suspects_have_a_process_each(gateway, store, start, dead, folder):
    """Or one would go on ending the other's runs."""
    killer, innocent = store.add(models.quotient(owner="a" * 32)), store.add(models.linear(owner="a" * 32))
    dead(killer.version, innocent.version)
    host = start(recorder=Recorder(folder))
    gateway.answer(gateway.push(innocent, row(1, 2, 3, 4)))
    process = host._residency.get(innocent.version).child.process

    assert gateway.reply(gateway.push_pairs(killer, [LETHAL])[0]).code == "model_failed"

    assert host.report().suspects == sorted([killer.version, innocent.version])
    gateway.answer(gateway.push(innocent, row(1, 2, 3, 4), key=lane_key(innocent.version)))
    assert host._residency.get(innocent.version).child.process is process
    assert process.poll() is None


def test_who_is_suspected_no_more_comes_back_into_the_worker(gateway, store, start, dead, folder):
    made = store.add(models.linear())
    dead(made.version)
    host = start(recorder=Recorder(folder))
    gateway.answer(gateway.push(made, row(1, 2, 3, 4)))
    assert isinstance(host._residency.get(made.version), ChildResident)

    gateway.client.zadd(SUSPECTS, {made.version: time.time() - 1})

    until(lambda: host._residency.get(made.version) is None)
    gateway.answer(gateway.push(made, row(1, 2, 3, 4)))
    assert isinstance(host._residency.get(made.version), LocalResident)
    assert host.report().suspects == []


def until_when(gateway, version):
    return gateway.client.zscore(SUSPECTS, version) - time.time()


def test_each_death_of_a_worker_doubles_the_time_and_each_of_its_own_process_begins_it_anew(gateway, dead, folder):
    suspects, version = Suspects(gateway.client, Recorder(folder)), uuid7().hex
    dead(version)
    suspects.look()
    assert until_when(gateway, version) == pytest.approx(SECONDS, abs=60)
    dead(version)
    suspects.look()
    assert until_when(gateway, version) == pytest.approx(2 * SECONDS, abs=60)

    gateway.client.zadd(SUSPECTS, {version: time.time() + 1})
    suspects.died(version)
    suspects.look()

    assert until_when(gateway, version) == pytest.approx(2 * SECONDS, abs=60)
    assert suspects.known == {version}
    gateway.client.set(f"worker-deaths:{version}", 1000)
    dead(version)
    suspects.look()
    assert until_when(gateway, version) <= 86_400


def test_the_process_of_a_suspect_that_dies_keeps_it_suspected(gateway, store, start, dead, folder):
    killer = store.add(models.quotient())
    dead(killer.version)
    start(recorder=Recorder(folder))
    gateway.reply(gateway.push_pairs(killer, [(6, 3)])[0])
    gateway.client.zadd(SUSPECTS, {killer.version: time.time() + 60})

    assert gateway.reply(gateway.push_pairs(killer, [LETHAL])[0]).code == "model_failed"

    until(lambda: until_when(gateway, killer.version) > 60)


# --- the recorder


def buried(folder):
    found, recorder = [], Recorder(folder)
    recorder.bury(found.append)
    recorder.close()
    return found


def test_a_dead_worker_is_found_once_with_what_it_was_running(folder, dead):
    running = {uuid7().hex, uuid7().hex}
    dead(*running)

    assert buried(folder) == [running]
    assert buried(folder) == []


def test_what_could_not_be_told_is_found_again(folder, dead):
    version = uuid7().hex
    dead(version)

    with pytest.raises(ConnectionError):
        Recorder(folder).bury(lambda versions: (_ for _ in ()).throw(ConnectionError))

    assert buried(folder) == [{version}]


def test_nobody_is_blamed_for_a_worker_that_lives_or_ended_in_order(folder, dead):
    living = Recorder(folder)
    living.begin(uuid7().hex)
    dead(uuid7().hex, is_in_order=True)

    assert buried(folder) == []
    living.close()


def test_what_has_ended_is_not_written_down_and_places_are_used_again(folder):
    made = Recorder(folder)
    assert os.path.getsize(made._path) == PLACES * 32
    for _ in range(2):
        places = [made.begin(uuid7().hex) for _ in range(PLACES + 1)]
        assert sorted(places)[:2] == [-1, 0]
        for place in places:
            made.end(place)
    assert not any(made._map[:])
    made.close()
