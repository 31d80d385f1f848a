"""What several workers of one machine have taken together."""

import subprocess
import sys

import pytest

from inference.engine.budget import Budget, Taken
from inference.engine.memory import machine_bytes
from inference.engine.process import ROOT

pytestmark = pytest.mark.no_servers


def others(budget):
    with budget.look() as taken:
        return taken


def test_workers_see_what_the_others_have_taken(tmp_path):
    one, two, three = (Budget(100, 50, tmp_path) for _ in range(3))
    one.tell(Taken(10, 1, 5))
    two.tell(Taken(20, 7, 0))

    assert others(one) == Taken(20, 7, 0)
    assert others(three) == Taken(30, 7, 5)
    one.close()
    assert others(three) == Taken(20, 7, 0)
    two.close()
    three.close()


def test_a_worker_without_a_folder_has_the_budget_to_itself():
    alone = Budget(100, 50)
    alone.tell(Taken(10))

    assert others(alone) == Taken()
    alone.close()


HOLD = """
import sys
from pathlib import Path
from inference.engine.budget import Budget, Taken
budget = Budget(100, 50, Path(sys.argv[1]))
budget.tell(Taken(42))
print("told", flush=True)
sys.stdin.read()
"""


def test_what_a_worker_had_that_was_killed_is_free_and_its_file_goes(tmp_path):
    mine = Budget(100, 50, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout.readline() == b"told\n"
        assert others(mine).bytes == 42
        worker.kill()

    assert others(mine).bytes == 0
    assert len(list(tmp_path.iterdir())) == 2  # its own, and the lock
    mine.close()


@pytest.mark.parametrize("names", [("elsewhere", "1"), ("machine", "2")])
def test_machines_and_containers_that_share_a_folder_do_not_share_the_memory(tmp_path, monkeypatch, names):
    monkeypatch.setattr("inference.engine.budget.machine", lambda: ("machine", "1"))
    mine = Budget(100, 50, tmp_path)
    monkeypatch.setattr("inference.engine.budget.machine", lambda: names)
    theirs = Budget(100, 50, tmp_path)
    theirs.tell(Taken(42))

    assert others(mine) == Taken()
    theirs.close()
    mine.close()


def test_the_budget_is_a_part_of_the_machine_and_a_share_a_part_of_that():
    budget = Budget.of_machine(50, 20)

    assert budget.limit == machine_bytes() // 2
    assert budget.share == budget.limit // 5
    assert Budget(100, 200).share == 100
