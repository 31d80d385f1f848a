import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from inference.engine import children, pipe, process
from inference.engine.batch import MAX_OUTPUT
from inference.engine.budget import Budget
from inference.engine.child_resident import ChildResident
from inference.engine.children import Children
from inference.engine.errors import ModelUnavailable, ProcessDied
from inference.engine.pipe import Answer, frame, pack, receive, unpack_ask
from inference.engine.process import Child
from inference.engine.tensors import decode
from inference.lanes import Reply
from saas.lib.ids import uuid7
from tests.inference.engine import models
from tests.inference.engine.models import work

pytestmark = pytest.mark.no_servers
MEMORY = 4 << 30


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o555)
    return folder


@pytest.fixture
def child(empty):
    made = Child("alice", empty, memory_bytes=MEMORY)
    yield made
    made.close()


def ready(child, made):
    child.load(made, 64)
    return ChildResident(made, child, 64)


def soon(seconds=30.0):
    return time.time() + seconds


LETHAL = (-(2**31), -1)


def quotient_of(made, a, b, number, **fields):
    return work(made, *(np.array([x], "i4") for x in (a, b)), number=number, **{"deadline": soon()} | fields)


def of(child, entry):
    return (Path("/proc") / str(child.process.pid) / entry).read_bytes()


def test_a_child_answers_as_the_worker_would(child):
    made = models.linear(is_private=True)
    resident = ready(child, made)
    rows = [np.random.default_rng(i).normal(size=(i, 4)).astype("f4") for i in (1, 2)]

    replies = resident.run([work(made, x, number=40 + i, deadline=soon()) for i, x in enumerate(rows)])

    assert [reply.number for reply in replies] == [40, 41]
    assert [reply.batch_rows for reply in replies] == [3, 3]
    for x, reply in zip(rows, replies, strict=True):
        np.testing.assert_allclose(decode(*reply.outputs[0]), x @ models.WEIGHTS, rtol=1e-5, atol=1e-6)


def test_a_child_has_no_secret_no_handle_and_an_empty_folder(child, empty, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_KEY", "leaked-secret")
    with (tmp_path / "leaked").open("w") as file, socket.socket() as leaked:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(leaked.fileno(), True)
        other = Child("bob", empty, memory_bytes=MEMORY)
        try:
            ready(other, models.linear(is_private=True))
            # Not dumpable: only root may look, and sees what the kernel kept from the start.
            names = {entry.partition(b"=")[0] for entry in of(other, "environ").split(b"\0") if entry}
            handles = [os.readlink(link) for link in (Path("/proc") / str(other.process.pid) / "fd").iterdir()]
            folder = os.readlink(f"/proc/{other.process.pid}/cwd")
        except PermissionError:
            pytest.skip("only root may look into a process that is not dumpable")
        finally:
            other.close()

    assert names <= {name.encode() for name in process.ENVIRONMENT}
    assert sorted(handle.partition(":")[0] for handle in handles) == ["/dev/null", "/dev/null", "socket"]
    assert folder == str(empty)
    assert os.listdir(empty) == []


def test_a_child_is_confined(child):
    ready(child, models.linear(is_private=True))
    limits = {line[:25].strip(): line[26:].split()[:2] for line in of(child, "limits").decode().splitlines()}
    status = dict(line.split(":\t", 1) for line in of(child, "status").decode().splitlines() if ":\t" in line)

    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max open files"] == ["64", "64"]
    assert limits["Max address space"] == [str(MEMORY)] * 2
    assert status["NoNewPrivs"] == "1"
    assert of(child, "oom_score_adj").strip() == b"1000"  # the kernel takes it first
    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)


def test_a_crash_fails_the_call_in_it_and_tells(empty):
    ended = []
    child = Child("alice", empty, memory_bytes=MEMORY, on_ended=ended.append)
    made = models.linear(is_private=True)
    resident = ready(child, made)
    os.kill(child.process.pid, signal.SIGSTOP)  # so that it cannot answer before it crashes

    def crash():
        os.kill(child.process.pid, signal.SIGSEGV)
        os.kill(child.process.pid, signal.SIGCONT)

    killer = threading.Timer(0.2, crash)
    killer.start()

    replies = resident.run([work(made, models.row(1, 2, 3, 4), number=7, deadline=soon())])
    killer.join()

    assert [(reply.number, reply.code) for reply in replies] == [(7, "model_failed")]
    assert "SIGSEGV" in replies[0].message
    assert ended == [child]
    assert child.process.returncode == -signal.SIGSEGV
    assert resident.run([work(made, models.row(1, 2, 3, 4), deadline=soon())]) == [None]


def test_calls_whose_process_died_under_several_come_back_as_suspects_and_each_runs_alone(empty):
    made = models.quotient(is_private=True)
    first, second = (Child("alice", empty, memory_bytes=MEMORY) for _ in range(2))
    works = [quotient_of(made, a, b, number) for number, (a, b) in enumerate([(6, 3), LETHAL, (8, 2)])]
    try:
        assert ready(first, made).run(works) == [None] * 3
        assert [each.is_suspect for each in works] == [True] * 3

        good, lethal, unasked = ready(second, made).run(works)
    finally:
        for each in (first, second):
            each.close()

    assert (good.code, lethal.code, unasked) == ("", "model_failed", None)
    assert good.batch_rows == 1


def test_a_suspect_whose_deadline_has_passed_is_refused_and_the_process_lives(child):
    made = models.quotient(is_private=True)

    (late,) = ready(child, made).run([quotient_of(made, 6, 3, 1, is_suspect=True, deadline=time.time() - 1)])

    assert late.code == "deadline_exceeded"
    assert not child.is_ended


def test_an_organization_whose_processes_die_all_the_time_gets_no_more_for_a_while():
    kept = Children(2, memory_bytes=MEMORY, budget=Budget(8 << 30, 8 << 30), on_ended=lambda child: None)
    try:
        for _ in range(children.DEATHS):
            kept.of("a").process.kill()
            with pytest.raises(ProcessDied):
                kept.of("a").run("", [], 1, time.monotonic() + 30)
        with pytest.raises(ModelUnavailable, match="ended their process"):
            kept.of("a")
        kept.of("b")
        kept._deaths["a"][0] -= children.DEATHS_SECONDS

        kept.of("a")
    finally:
        kept.close()


def test_large_answers_come_in_parts_and_those_beyond_a_bound_are_asked_again(child):
    made = models.filled(is_private=True, is_batchable=False)
    width = (pipe.ANSWERS_AT_ONCE // 2) // 4
    works = [work(made, np.array([width]), number=number, deadline=soon()) for number in range(5)]

    replies = ready(child, made).run(works)

    assert [reply and (reply.number, reply.code, len(reply.outputs[0][3])) for reply in replies] == [
        (0, "", width * 4),
        (1, "", width * 4),
        None,
        None,
        None,
    ]


def test_outputs_beyond_the_bound_fail_their_own_call_and_say_how_large_they_were(child):
    made = models.filled(is_private=True, is_batchable=False)
    works = [work(made, np.array([width]), deadline=soon()) for width in (2, MAX_OUTPUT // 4 + 1, 3)]

    small, large, other = ready(child, made).run(works)

    assert (small.code, large.code, other.code) == ("", "output_too_large", "")
    assert str(MAX_OUTPUT + 4) in large.message
    assert not child.is_ended


def test_a_run_beyond_the_deadline_is_killed_and_answered(empty):
    ended = []
    child = Child("alice", empty, memory_bytes=MEMORY, on_ended=ended.append)
    resident = ready(child, models.linear(is_private=True))
    os.kill(child.process.pid, signal.SIGSTOP)

    (reply,) = resident.run([work(models.linear(), models.row(1, 2, 3, 4), deadline=soon(0.2))])

    assert reply.code == "deadline_exceeded"
    assert child.process.returncode == -signal.SIGKILL
    assert ended == [child]


def test_a_child_dies_with_the_whole_group_it_started(empty):
    child = Child("alice", empty, memory_bytes=MEMORY)
    child.close()

    with pytest.raises(ProcessLookupError):
        os.killpg(child.process.pid, 0)


def pretend(child, answer):
    """Take the child's place: answer its next question with what `answer(ask)` gives, as bytes."""
    original = child._connection  # kept open until the test's end: the real child waits at it
    child._connection, theirs = socket.socketpair()

    def serve():
        with theirs:
            theirs.sendall(answer(unpack_ask(receive(theirs))))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, original


@pytest.mark.parametrize(
    "answer",
    [
        lambda ask: frame(pack(Answer(b"x" * 16, replies=[Reply(0)]))),  # a late answer to another question
        lambda ask: frame(pack(Answer(ask.nonce, replies=[]))),
        lambda ask: frame(pack(Answer(ask.nonce, replies=[Reply(0, "quota_exceeded")]))),
        lambda ask: frame(pack(Answer(ask.nonce, replies=[Reply(0, outputs=[("y", "FP32", [9], b"")])]))),
        lambda ask: frame(b"\xc1 not msgpack"),
        lambda ask: frame(pack(Answer(ask.nonce, replies=[Reply(1)]))),
        lambda ask: frame(pack(Answer(ask.nonce, replies=[Reply(0), Reply(0)]))),
        lambda ask: frame(pack(Answer(ask.nonce, is_last=False))) * 2,
        lambda ask: frame(pack(Answer(ask.nonce, replies=[Reply(0)], is_last=False))) * 2,
        lambda ask: b"\xff\xff\xff\xff",
        lambda ask: b"\x10",
    ],
)
def test_an_answer_that_is_not_to_this_question_ends_the_child(child, answer):
    thread, original = pretend(child, answer)
    made = models.linear()
    resident = ChildResident(made, child, 64)

    (reply,) = resident.run([work(made, models.row(1, 2, 3, 4), number=5, deadline=soon())])
    thread.join()
    original.close()

    assert (reply.number, reply.code) == (5, "model_failed")
    assert child.is_ended
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_is_told_nothing_about_who_asks(child):
    asked = []

    def answer(ask):
        asked.extend(ask.works)
        return frame(pack(Answer(ask.nonce, replies=[Reply(0)])))

    thread, original = pretend(child, answer)
    made = models.linear()
    ChildResident(made, child, 64).run(
        [work(made, models.row(1, 2, 3, 4), gateway="secret", tenant="t", number=5, deadline=soon())]
    )
    thread.join()
    original.close()

    (bare,) = asked
    assert (bare.gateway, bare.call, bare.tenant, bare.owner, bare.number) == ("", "", "", "", 0)


def test_a_model_that_does_not_load_is_refused_with_the_reason_and_the_child_lives(child):
    made = models.linear(is_private=True)
    broken = models.linear(is_private=True)
    broken.artifact = b"no model"

    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        child.load(broken, 64)

    (reply,) = ready(child, made).run([work(made, models.row(1, 2, 3, 4), deadline=soon())])
    assert reply.code == ""


def test_a_model_that_asks_for_too_much_memory_fails_and_the_child_lives(child):
    from onnx import helper

    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["y"])]
    made = models.source(
        models.graph([("shape", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, ["n"])], nodes),
        is_private=True,
        has_batch=False,
        is_batchable=False,
    )
    resident = ready(child, made)

    bomb, small = resident.run([work(made, np.array([size]), number=size, deadline=soon()) for size in (3_000_000_000, 2)])

    assert (bomb.code, small.code) == ("model_failed", "")
    assert child.process.poll() is None


def test_the_least_recently_used_child_makes_place_and_busy_ones_stay():
    ended = []
    kept = Children(2, memory_bytes=MEMORY, budget=Budget(8 << 30, 8 << 30), on_ended=ended.append)
    try:
        first, second = kept.of("a"), kept.of("b")
        assert kept.of("a") is first
        second.last_used = first.last_used - 1

        third = kept.of("c")

        assert ended == [second]
        assert kept.count() == 2
        with first._lock, third._lock, pytest.raises(ModelUnavailable):
            kept.of("d")
        first.last_used = third.last_used = time.monotonic() - 60
        kept.end_idle(30)
        assert (set(ended), kept.count()) == ({first, second, third}, 0)
    finally:
        kept.close()


def test_no_process_starts_once_all_were_closed():
    class Asking(Budget):
        def close(self):  # after the processes, before what starts them
            with pytest.raises(ModelUnavailable, match="ending"):
                kept.of("a")
            super().close()

    kept = Children(2, memory_bytes=MEMORY, budget=Asking(8 << 30, 8 << 30), on_ended=lambda child: None)

    kept.close()

    assert kept.count() == 0


def test_a_version_that_leaves_takes_its_process_with_it_only_if_it_was_the_last(child):
    one, two = models.linear(is_private=True), models.linear(is_private=True)
    first, second = ready(child, one), ready(child, two)

    first.close()
    (gone,) = first.run([work(one, models.row(1, 2, 3, 4), deadline=soon())]) if not child.is_ended else (None,)
    assert gone is None or gone.code != ""

    second.close()
    assert child.is_ended


def test_the_child_ends_when_its_worker_does(child):
    ready(child, models.linear(is_private=True))

    child._connection.close()

    assert os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT).si_status == 0


def test_onnxruntime_reports_nothing_to_its_maker():
    """Its wheels open a database under the home directory and start a thread when they are loaded."""
    look = "import inference.engine.model, os; print([os.readlink(e.path) for e in os.scandir('/proc/self/fd')])"
    done = subprocess.run([sys.executable, "-c", look], cwd=process.ROOT, capture_output=True, text=True, check=True)

    assert "onnxruntime" not in done.stdout


def test_uuid_owner_is_no_part_of_the_command_line(empty):
    owner = uuid7().hex
    child = Child(owner, empty, memory_bytes=MEMORY)
    try:
        assert owner not in " ".join(child.process.args)
    finally:
        child.close()
