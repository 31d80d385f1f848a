"""Nothing is left behind: also not by a supervisor that is killed."""

import os
import signal
import subprocess
import sys

import pytest

from saas.local.preconditions import CannotStart, lock_or_refuse
from saas.local.processes import MARK, end_leftovers, is_running, marked_processes
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.no_servers

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"]
OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from saas.local.processes import MARK, Guard
data_dir = Path(sys.argv[1])
guard = Guard(data_dir, [])
subprocess.Popen(["sleep", "100"], env={**os.environ, MARK: str(data_dir)}, start_new_session=True)
print("up", flush=True)
if sys.argv[2] == "dismiss":
    guard.dismiss()
    print("dismissed", flush=True)
time.sleep(100)
"""


@pytest.fixture
def data_dir(tmp_path):
    yield tmp_path
    end_leftovers(tmp_path, [], grace=0.1)


def start(data_dir, command=SLEEP):
    return subprocess.Popen(command, env={**os.environ, MARK: str(data_dir)}, start_new_session=True)


def test_what_an_earlier_start_left_is_found_and_ended(data_dir):
    left = start(data_dir)
    until(lambda: left.pid in marked_processes(data_dir))

    assert end_leftovers(data_dir, []) == 1
    assert left.wait(PATIENCE) == -signal.SIGTERM


def test_what_does_not_end_is_killed(data_dir):
    left = start(data_dir, STUBBORN)
    until(lambda: left.pid in marked_processes(data_dir))

    end_leftovers(data_dir, [], grace=0.2)

    assert left.wait(PATIENCE) in (-signal.SIGKILL, -signal.SIGTERM)


def test_processes_of_another_checkout_are_left_alone(data_dir, tmp_path_factory):
    other = start(tmp_path_factory.mktemp("other"))

    assert end_leftovers(data_dir, []) == 0
    assert other.poll() is None
    other.kill()
    other.wait()


def test_after_a_kill_9_of_the_owner_the_guard_ends_the_rest(data_dir):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, data_dir, "stay"], stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"up\n"
    until(lambda: marked_processes(data_dir))

    owner.kill()
    owner.wait()
    owner.stdout.close()

    until(lambda: not marked_processes(data_dir))


def test_a_dismissed_guard_is_gone(data_dir):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, data_dir, "dismiss"], stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"up\n"
    owner.stdout.readline()
    owner.kill()
    owner.wait()
    owner.stdout.close()


LOCKED = """
import os, sys, time
from pathlib import Path
from saas.local.preconditions import lock_or_refuse
from saas.local.processes import Guard
data_dir = Path(sys.argv[1])
guard = Guard(data_dir, [], lock=lock_or_refuse(data_dir))
print("up", flush=True)
time.sleep(100)
"""


def test_a_start_after_a_kill_9_waits_for_the_guard_also_while_the_killed_one_is_a_zombie(data_dir):
    owner = subprocess.Popen([sys.executable, "-c", LOCKED, str(data_dir)], stdout=subprocess.PIPE, start_new_session=True)
    owner.stdout.readline()
    with pytest.raises(CannotStart, match=f"already running \\(process {owner.pid}\\)"):
        lock_or_refuse(data_dir)

    owner.kill()
    until(lambda: not is_running(owner.pid))  # nobody has waited for it: /proc has it still
    os.close(lock_or_refuse(data_dir))

    assert (data_dir / "lock").read_text() == str(os.getpid())
    owner.wait()
    owner.stdout.close()
