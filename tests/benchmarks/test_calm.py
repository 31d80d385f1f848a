"""What counts as calm: verdicts from figures, without a load."""

import math
import os

import pytest

from benchmarks.calm import judging
from benchmarks.calm.crowd import Kind, gathered
from benchmarks.calm.report import Finding, Report, markdown
from benchmarks.calm.watching import Watch
from benchmarks.failures import Failed
from benchmarks.load import by_second, run
from benchmarks.peers import free_port
from tests.benchmarks.test_load import plan, said, serving
from tests.waiting import until

pytestmark = pytest.mark.no_servers

MB = 1 << 20
SOON = (10, 0, 0.01)
LATE = (10, 0, 0.5)
FAILED = (9, 1, 0.01)


def test_a_goal_is_met_on_its_border_and_not_beyond():
    assert judging.at_least("share", 0.9, 0.9).is_met
    assert not judging.at_least("share", 0.89, 0.9).is_met
    assert judging.at_most("p99", 20.0, 20.0).is_met
    assert not judging.at_most("p99", 20.1, 20.0).is_met


def test_requests_without_an_answer_meet_no_goal():
    assert not judging.at_most("p99", math.inf, 1.5).is_met
    assert not judging.at_most("p99", judging.ratio(math.inf, math.inf), 1.5).is_met
    assert not judging.at_most("p99", judging.ratio(1.0, 0.0), 1.5).is_met
    assert not judging.at_least("goodput", judging.share(5.0, 0.0), 0.95).is_met


@pytest.mark.parametrize(
    ("seconds", "after"),
    [
        ([SOON] * 5, 0),
        ([FAILED, LATE, SOON, SOON], 2),
        ([SOON, SOON, FAILED, SOON], 3),  # it was calm before, but not for good
        ([(0, 0, 0.0), LATE, SOON], 2),
        ([SOON, LATE], math.inf),
        ([], math.inf),
    ],
)
def test_recovery_is_the_first_second_from_which_all_was_well(seconds, after):
    assert judging.recovered_after(seconds, p99=0.1) == after


def test_memory_may_grow_while_caches_fill_but_not_afterwards():
    warm = [50.0 * MB] * 10 + [100.0 * MB] * 40
    leak = [100.0 * MB + number * 0.1 * MB for number in range(50)]

    assert judging.is_flat(warm)
    assert not judging.is_flat(leak)
    assert judging.is_flat([5.0 * MB] * 40 + [5.5 * MB] * 10)  # 10 %, but of little: an allocator's step


def test_the_process_that_grew_is_named_and_none_at_all_is_no_proof():
    flat, leak = [100.0 * MB] * 50, [100.0 * MB + number * MB for number in range(50)]
    (check,) = judging.memory_checks({"gateway/7": leak, "worker/8": flat})

    assert not check.is_met
    assert "gateway/7" in check.seen
    assert "worker/8" not in check.seen
    assert judging.memory_checks({"worker/8": flat})[0].is_met
    assert not judging.memory_checks({})[0].is_met


def test_descriptors_that_stay_open_are_seen():
    assert judging.file_checks({"gateway/7": [20.0, 40.0, 41.0, 40.0, 42.0]})[0].is_met
    assert not judging.file_checks({"gateway/7": [20.0 + number for number in range(50)]})[0].is_met


def test_only_processes_that_lived_all_the_time_are_compared():
    watch = Watch()
    watch.look({"us": {os.getpid()}})
    watch.look({"us": {os.getpid()}, "late": {os.getppid()}})

    assert list(watch.lasting(watch.memory)) == [f"us/{os.getpid()}"]
    assert watch.most("us") > MB
    assert watch.most("gone") == 0.0
    assert watch.lasting(watch.files)[f"us/{os.getpid()}"][0] > 0


def test_one_check_that_is_missed_or_one_scenario_that_could_not_be_played_fails_the_run():
    met, missed, told = judging.at_most("a", 1, 2), judging.at_most("b", 3, 2), judging.told("c", 1)
    machine = {"date": "", "processor": "", "cores": 2, "memory_gib": 1, "kernel": "", "python": "", "load_before": [0.1]}

    assert Report(machine, [Finding("x", [met, told])]).is_met
    assert not Report(machine, [Finding("x", [met]), Finding("y", [met, missed])]).is_met
    assert not Report(machine, [Finding("x", fault="it did not start")]).is_met
    assert "| y | b | 3 | ≤ 2 | **missed** |" in markdown(Report(machine, [Finding("y", [missed])]))
    assert "it did not start" in markdown(Report(machine, [Finding("x", fault="it did not start")]))


def test_requests_are_told_by_the_second_in_which_they_were_due():
    assert by_second(100.0, [100.1, 100.9, 102.5], [0.2, math.inf, 0.1]) == [(1, 1, math.inf), (0, 0, 0.0), (1, 0, 0.1)]
    assert by_second(100.0, [], []) == []


def test_a_refusal_that_says_when_to_come_again_is_told_apart():
    answers = [
        b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    ]
    with serving(lambda number: answers[number % 2]) as server:
        load = run(plan(server.port, clients=1))

    assert 0 < load.refused < load.bad
    assert load.refused_p99 > 0


def test_a_server_may_say_that_it_closes_a_connection():
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 14\r\n\r\n" + b'{"y": [[1.0]]}'
    with serving(lambda number: last if number % 3 == 0 else said(b'{"y": [[1.0]]}')) as server:
        load = run(plan(server.port, clients=2))

    assert load.good > 3
    assert load.bad == 0


def test_a_crowd_keeps_its_size_when_the_server_closes_connections():
    with serving(lambda number: None) as server, gathered(server.port, [Kind("idle", 3), Kind("gone", 2, b"x" * 64)]) as crowd:
        until(lambda: crowd.closed["gone"] >= 4, what="connections that come back")
        assert crowd.size >= 4
        assert crowd.closed["idle"] == 0


def test_a_crowd_that_cannot_connect_is_told():
    with pytest.raises(Failed, match="could connect"), gathered(free_port(), [Kind("idle", 1)]):
        pass
