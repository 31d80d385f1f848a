"""The subprocess: what it cannot reach, and that whatever a model does there ends in a verdict."""

import os

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.intake import sandbox
from inference.intake.rules import RULES, Rejected
from tests.inference.intake.onnx_models import BOOL, FLOAT, INT64, linear, model, value
from tests.inference.intake.test_static import bomb
from tests.waiting import until

pytestmark = pytest.mark.no_servers

X, Y = value("x", FLOAT, ["n", 4]), value("y", FLOAT, ["n", 4])


@pytest.fixture
def examine(tmp_path):
    def run(stage, data, manifest=None, *, is_short=False):
        file = tmp_path / "model.onnx"
        file.write_bytes(data)
        with file.open("rb") as opened:
            return sandbox.examine(stage, opened, manifest or {"task": "tensor"}, is_short=is_short)

    return run


@pytest.fixture
def verdict_of(examine):
    def run(stage, data):
        with pytest.raises(Rejected) as raised:
            examine(stage, data)
        assert raised.value.code in RULES
        return raised.value

    return run


def constant(name, *numbers, dtype=np.int64):
    return numpy_helper.from_array(np.array(numbers, dtype), name)


def expand(*shape):
    """A file of some hundred bytes whose output has this shape."""
    nodes = [helper.make_node("Expand", ["one", "shape"], ["big"]), helper.make_node("Add", ["x", "big"], ["y"])]
    return model(
        nodes,
        [value("x", FLOAT, [1])],
        [value("y", FLOAT, None)],
        [constant("one", 1, dtype=np.float32), constant("shape", *shape)],
    )


def loop(trips):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, None)],
        [value("on", BOOL, []), value("w", FLOAT, None)],
    )
    node = helper.make_node("Loop", ["trips", "yes", "x"], ["y"])
    node.attribute.append(helper.make_attribute("body", body))
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([node], [X], [Y], [numpy_helper.from_array(np.array(trips, np.int64), "trips"), yes])


def test_memory_that_an_output_would_need_is_not_given(verdict_of):
    assert verdict_of("probe", expand(40_000, 40_000)).code == "memory"


def test_constants_are_not_folded_into_gigabytes(examine):
    """A sum over a large constant: folded it would be kept; onnxruntime is told not to, and the probe says what it took."""
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    data = model(nodes, [X], [Y], [constant("one", 1, dtype=np.float32), constant("shape", 4000, 4000)])

    facts = examine("probe", data)

    assert facts["measured"]["load_bytes"] < 40 << 20


def test_a_loop_without_end_is_stopped_by_its_processor_time(verdict_of, monkeypatch):
    monkeypatch.setattr(sandbox, "RUN_SECONDS", 1.0)

    rejected = verdict_of("probe", loop(1 << 62))

    assert rejected.code == "run_timeout"


def test_an_examination_that_uses_up_all_of_its_processor_time_is_not_our_failure(verdict_of, monkeypatch):
    monkeypatch.setitem(sandbox.CPU_SECONDS, "probe", 2)
    monkeypatch.setattr(sandbox, "RUN_SECONDS", 60.0)

    assert verdict_of("probe", loop(1 << 62)).code == "run_timeout"


def test_a_short_examination_that_does_not_end_decides_nothing(examine, monkeypatch):
    monkeypatch.setattr(sandbox, "SHORT_CPU_SECONDS", 1)

    with pytest.raises(sandbox.Overran):
        examine("probe", loop(1 << 62), is_short=True)


def test_a_short_examination_that_gets_no_processor_decides_nothing(examine, monkeypatch):
    monkeypatch.setattr(sandbox, "SHORT_SECONDS", 0.0)

    with pytest.raises(sandbox.Overran):
        examine("probe", linear(), is_short=True)


def test_a_short_examination_that_ends_is_as_good_as_a_long_one(examine):
    short, long = examine("probe", linear(), is_short=True), examine("probe", linear())

    assert (short["inputs"], short["outputs"], short["batching"]) == (long["inputs"], long["outputs"], long["batching"])


def test_a_function_bomb_that_reached_loading_would_be_stopped_there(verdict_of, monkeypatch):
    """The static rules refuse it before; this is the second line."""
    monkeypatch.setattr(sandbox, "LOAD_SECONDS", 1.0)

    assert verdict_of("static", bomb(18)).code == "function_expansion"
    assert verdict_of("probe", bomb(18)).code == "load_timeout"


def external(path, name="W", elements=4):
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[elements], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=path)
    return model(
        [helper.make_node("Identity", ["W"], ["y"])],
        [X],
        [value("y", TensorProto.UINT8, [elements])],
        [tensor],
    )


@pytest.mark.parametrize("kind", ["absolute", "relative", "symbolic link", "hard link", "model.onnx", "/proc/self/environ"])
def test_no_file_can_be_read_even_if_the_static_rules_were_not_there(examine, tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(b"hush")
    (tmp_path / "symbolic").symlink_to(secret)
    os.link(secret, tmp_path / "hard")
    path = {"absolute": str(secret), "relative": "secret", "symbolic link": "symbolic", "hard link": "hard"}.get(kind, kind)

    for stage in ("static", "probe"):
        with pytest.raises(Rejected) as raised:
            examine(stage, external(path))
        assert raised.value.code == ("external_data" if stage == "static" else "load_failed")
        assert "hush" not in raised.value.detail


def test_the_process_has_no_environment_no_files_and_an_empty_folder(tmp_path, monkeypatch):
    """Asks the process itself, through the command that the sandbox builds."""
    monkeypatch.setenv("SECRET_KEY", "hush")
    seen = tmp_path / "seen.py"
    seen.write_text(
        "import json, os, resource, sys\n"
        "from inference.engine.child import confine\n"
        "confine(int(sys.argv[4]), int(sys.argv[5]))\n"
        "after = {n: resource.getrlimit(getattr(resource, 'RLIMIT_' + n))[0] for n in ('CORE', 'FSIZE', 'NOFILE', 'AS')}\n"
        "print(json.dumps({'facts': {'environment': dict(os.environ), 'folder': os.listdir('.'),"
        " 'files': sorted(map(int, os.listdir('/proc/self/fd'))), 'limits': after,"
        " 'oom': open('/proc/self/oom_score_adj').read(), 'session': os.getsid(0) == os.getpid(),"
        " 'django': 'django' in sys.modules}}))\n"
    )
    real = sandbox.command

    def command(*arguments):
        line = real(*arguments)
        return [*line[: line.index("-m")], str(seen), *line[line.index("-m") + 1 :]]

    monkeypatch.setattr(sandbox, "command", command)
    file = tmp_path / "model.onnx"
    file.write_bytes(linear())
    with file.open("rb") as opened:
        facts = sandbox.examine("probe", opened, {"task": "tensor"})

    given = {"PYTHONPATH", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"}
    made_up = {"LC_CTYPE", "ORT_DISABLE_TELEMETRY"}  # by Python, and by the engine's package
    assert set(facts["environment"]) <= given | made_up
    assert facts["folder"] == []
    assert facts["limits"]["CORE"] == 0
    assert facts["limits"]["FSIZE"] == 0
    assert facts["limits"]["NOFILE"] <= 64
    assert facts["limits"]["AS"] == sandbox.MEMORY + sandbox.MEMORY_PER_BYTE * len(linear())
    assert len(facts["files"]) <= 6  # the three standard ones, the job, the listing, one of the interpreter's
    assert facts["session"] is True
    assert facts["oom"].strip() == "1000"  # the kernel takes it first


def test_the_child_imports_neither_django_nor_settings():
    import subprocess
    import sys

    program = (
        "import sys, inference.intake.child; print(sorted({'django', 'saas.settings', 'tenants', 'celery'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=sandbox.ROOT, check=True)

    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashed"),
        ("import os; os.abort()", "crashed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGPROF)", "run_timeout"),
        ('print(\'{"stage": "load"}\', flush=True); import os, signal; os.kill(os.getpid(), signal.SIGPROF)', "load_timeout"),
        ("print('nonsense')", "crashed"),
        ("print('{\"facts\": [1]}')", "crashed"),
        ("while True: print('x' * 100000)", "crashed"),
        (
            'print(\'{"rejected": {"result": "rejected", "code": "made_up", "rule": ""}}\')',
            "crashed",
        ),
    ],
)
def test_whatever_the_process_does_there_is_a_verdict(tmp_path, monkeypatch, program, code):
    assert outcome(tmp_path, monkeypatch, program).code == code


@pytest.mark.parametrize("program", ["import os; os.kill(os.getpid(), 9)", "import sys; sys.exit(1)", "pass"])
def test_an_end_that_may_be_ours_is_tried_again(tmp_path, monkeypatch, program):
    assert isinstance(outcome(tmp_path, monkeypatch, program), sandbox.Unfinished)


def test_at_the_deadline_the_whole_group_is_killed(tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    program = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(pid_file)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    )
    monkeypatch.setitem(sandbox.SECONDS, "probe", 5.0)

    assert isinstance(outcome(tmp_path, monkeypatch, program), sandbox.Unfinished)

    pid = int(pid_file.read_text())
    until(lambda: not _is_running(pid))


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def outcome(tmp_path, monkeypatch, program):
    import sys

    monkeypatch.setattr(sandbox, "command", lambda *_: [sys.executable, "-c", program])
    file = tmp_path / "model.onnx"
    file.write_bytes(linear())
    with file.open("rb") as opened, pytest.raises((Rejected, sandbox.Unfinished)) as raised:
        sandbox.examine("probe", opened, {"task": "tensor"})
    return raised.value
