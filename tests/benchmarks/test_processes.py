"""Processes are found, measured and ended with all that they started."""

import os
import sys
import time

import pytest

from benchmarks import processes
from tests.waiting import until

pytestmark = pytest.mark.no_servers

BUSY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
while time.process_time() < 0.5: pass
print("done", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def busy(tmp_path):
    """A process that uses half a second of processor time, and has a child in another session."""
    log = tmp_path / "busy.log"
    process = processes.start([sys.executable, "-c", BUSY], os.environ, tmp_path, log)
    try:
        until(lambda: "done" in log.read_text(), what="half a second of work")
        yield process
    finally:
        processes.stop(process)


def test_a_tree_has_the_children_in_other_sessions_and_their_time_is_counted(busy):
    tree = processes.tree([busy.pid])

    assert len(tree) == 2
    assert tree <= processes.below_us()
    assert processes.cpu_seconds(tree) > 0.4  # it comes in steps of 10 ms
    assert processes.cpu_seconds([]) == 0


def test_all_of_a_tree_is_ended(busy):
    tree = processes.tree([busy.pid])

    processes.stop(busy)

    assert busy.poll() is not None
    until(lambda: not any(is_alive(pid) for pid in tree), what="the end of the tree")


def test_the_machine_has_worked_at_least_as_long_as_we_have():
    before, mine = processes.machine_seconds(), time.process_time()
    while time.process_time() < mine + 0.3:
        pass

    assert processes.machine_seconds() - before > 0.2  # in steps of 10 ms


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
