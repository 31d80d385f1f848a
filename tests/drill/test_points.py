"""The named points: each has its function in the product, and strikes where and when it was planned to."""

import importlib
import json
import subprocess
import sys
from types import ModuleType

import pytest

from saas.config import ROOT
from tests.drill.points import AFTER, BEFORE, POINTS, SCRIPT, Point
from tests.drill.taps import Importer, Trigger, part_of, place_of

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_each_point_names_a_function_that_there_is(point):
    module, _, name = point.target.partition(":")
    owner, attribute = place_of(importlib.import_module(module), name)
    assert callable(getattr(owner, attribute))


def test_a_point_whose_function_is_gone_is_reported(tmp_path):
    Importer(Trigger(tmp_path), [Point("gone", "gateway", "strange:Thing.method", BEFORE)]).wrap(ModuleType("strange"))
    assert [path.name for path in tmp_path.iterdir()] == ["missing-gone"]


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["python", "-m", "gunicorn", "-c", "saas/gunicorn.py", "saas.asgi:application"], "gateway"),
        (["python", "-m", "celery", "-A", "saas", "worker", "-Q", "infer.cpu", "-n", "infer1@%h"], "worker"),
        (["python", "-m", "celery", "-A", "saas", "worker", "-Q", "ops"], "ops"),
        (["python", "-m", "celery", "-A", "saas", "beat"], None),
        (["python", "-m", "saas.local.stripe"], "stripe"),
        (["python", "manage.py", "bookkeeper"], "bookkeeper"),
        (["python", "manage.py", "shell"], None),
    ],
)
def test_a_process_knows_its_part(command, part):
    assert part_of(command) == part


COUNTER = """
import os
from pathlib import Path
from types import ModuleType
from tests.drill.points import Point
from tests.drill.taps import Importer, Trigger

module = ModuleType("counting")
module.count = lambda n: print(n, flush=True)
moment = os.environ["MOMENT"]
Importer(Trigger(Path(os.environ["DRILL_DIR"])), [Point("counted", "gateway", "counting:count", moment)]).wrap(module)
for n in range(1, 6):
    module.count(n)
"""


@pytest.mark.parametrize(("moment", "seen"), [(BEFORE, "1\n2\n"), (AFTER, "1\n2\n3\n")])
def test_the_signal_comes_at_the_third_pass_before_or_after_it(tmp_path, moment, seen):
    plan = {"number": 4, "point": "counted", "nth": 3, "signal": "SIGKILL", "pids": []}
    (tmp_path / "plan.json").write_text(json.dumps(plan))

    ended = subprocess.run(
        [sys.executable, "-c", COUNTER],
        cwd=ROOT,
        env={"DRILL_DIR": str(tmp_path), "MOMENT": moment},
        capture_output=True,
        text=True,
    )

    assert (ended.returncode, ended.stdout) == (-9, seen), ended.stderr
    assert (tmp_path / "fired-4").read_text().isdigit()


def test_the_points_of_scripts_have_callbacks_or_none():
    assert {point.moment for point in POINTS if point.target != SCRIPT} <= {BEFORE, AFTER, "heard"}


def test_a_point_that_is_called_in_another_way_is_reported_and_disturbs_nothing(tmp_path):
    module = ModuleType("counting")
    module.count = lambda n: n
    trigger = Trigger(tmp_path)
    Importer(trigger, [Point("odd", "gateway", "counting:count", BEFORE, lambda arguments, result: arguments[7] > 0)]).wrap(
        module
    )
    (tmp_path / "plan.json").write_text(json.dumps({"number": 1, "point": "odd", "nth": 1, "signal": "SIGKILL", "pids": []}))

    assert module.count(3) == 3

    assert sorted(path.name for path in tmp_path.iterdir()) == ["missing-odd", "plan.json"]
