"""Which peer counts as the best, what ratio comes out, and whether a goal is met."""

from math import inf, isnan

import pytest

from benchmarks import report
from benchmarks.goals import complaints, verdict
from benchmarks.results import Results, Sample
from benchmarks.workloads import BY_NAME, DIALECTS, GOALS, PYTHON_PEERS, Goal, chosen

pytestmark = pytest.mark.no_servers

FASTER = Goal("rate", "iris-64", "rate", "best Python peer", PYTHON_PEERS, least=4.0)
SOONER = Goal("p50", "iris-64", "p50", "best Python peer", PYTHON_PEERS, most=0.9)


def sample(system, **changes):
    usual = {
        "workload": "iris-64", "system": system, "round": 1, "rate": 100.0, "mb": 1.0, "p50": 1.0, "p99": 2.0, "cpu": 50.0,
        "good": 1000, "bad": 0, "seconds": 10.0, "generator": 0.1, "foreign": 0.0,
    }  # fmt: skip
    return Sample(**usual | changes)


def results(*samples, **more):
    machine = {
        "date": "", "processor": "", "cores": 2, "memory_gib": 1, "kernel": "", "python": "", "load_before": [0.1], "ours": {},
        "peers": {},
    }  # fmt: skip
    settings = {"rounds": 3, "seconds": 60, "peer_seconds": 20, "workloads": list(BY_NAME)}
    return Results(machine, settings, samples=list(samples), **more)


def rounds(system, rates, **changes):
    return [sample(system, round=number, rate=rate, **changes) for number, rate in enumerate(rates, 1)]


def test_the_ratio_is_that_of_the_medians_with_the_spread_of_the_rounds():
    found = verdict(FASTER, results(*rounds("ours", [400, 800, 900]), *rounds("ray:one", [100, 100, 300])))

    assert found.ours == 800
    assert found.theirs == 100
    assert found.ratio == 8
    assert found.spread == (3, 8)
    assert found.is_met


def test_the_best_peer_is_the_one_with_the_best_median():
    ours = rounds("ours", [800, 800, 800])
    peers = [*rounds("ray:one", [100, 100, 900]), *rounds("mlserver:batch", [300, 300, 300])]

    assert verdict(FASTER, results(*ours, *peers)).system == "mlserver:batch"
    assert not verdict(FASTER, results(*ours, *peers)).is_met


def test_of_latencies_the_lowest_is_the_best():
    ours = sample("ours", p50=1.0)
    peers = [sample("ray:one", p50=2.0), sample("bento:copies", p50=3.0), sample("triton:one", p50=0.1)]

    found = verdict(SOONER, results(ours, *peers))

    assert found.system == "ray:one"  # Triton is no Python peer
    assert found.ratio == 0.5
    assert found.is_met


def test_a_peer_that_does_not_answer_is_infinitely_slow():
    found = verdict(SOONER, results(sample("ours"), sample("ray:one", p50=None)))

    assert found.theirs == inf
    assert found.ratio == 0
    assert found.is_met


def test_nothing_is_met_when_nobody_answers():
    found = verdict(SOONER, results(sample("ours", p50=None), sample("ray:one", p50=None)))

    assert isnan(found.ratio)
    assert not found.is_met


def test_a_goal_that_was_not_measured_has_no_verdict():
    assert verdict(FASTER, results(sample("ours"))) is None
    assert verdict(FASTER, results(sample("ray:one"))) is None


def test_what_was_only_tried_counts_nowhere():
    assert verdict(FASTER, results(sample("ours"), sample("ray:one", round=0))) is None


def test_a_ratio_to_ourselves_has_another_workload_as_base():
    overhead = Goal("cpu", "iris-64", "cpu", "ourselves, all off", base="bare", most=1.25)

    found = verdict(overhead, results(sample("ours", cpu=60.0), sample("ours", workload="bare", cpu=50.0)))

    assert found.ratio == 1.2
    assert found.is_met


def test_the_best_configuration_answers_right_before_it_is_fast():
    tried = {"ray:one": {"rate": 100}, "ray:copies": {"rate": 200}, "ray:batch": {"rate": 900, "bad": 1}}
    found = results(*(sample(system, round=0, **changes) for system, changes in tried.items()))
    found.choose("iris-64", "ray")

    assert found.best == {"iris-64": {"ray": "ray:copies"}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"bad": 2, "fault": "503 busy"}, "2 calls got no right answer: 503 busy"),
        ({"lag": 5.1}, "the drain was 5.1 s behind"),
        ({"ledger_rows": 999}, "1000 answers, but 999 rows in the ledger"),
    ],
)
def test_a_sample_of_ours_that_proves_nothing_is_told(changes, complaint):
    assert complaint in complaints(results(sample("ours", **changes)))[0]


def test_a_sample_of_ours_that_is_sound_is_not():
    assert complaints(results(sample("ours", lag=0.3, ledger_rows=1000), sample("ray:one", bad=5))) == []


def test_the_table_says_of_each_goal_whether_it_is_met():
    table = report.goal_table(results(*rounds("ours", [500]), *rounds("ray:one", [100]), *rounds("triton:one", [1000])))
    begin = "| iris, JSON, 64 clients, requests/s"
    lines = {line for line in table.splitlines() if line.startswith(begin)}

    assert lines == {
        f"{begin} | 500/s | best Python peer: ray:one | 100/s | 5.00 (5.00–5.00) | ≥ 4 × | met |",
        f"{begin} | 500/s | Triton: triton:one | 1,000/s | 0.50 (0.50–0.50) | ≥ 1.2 × | **missed** |",
    }
    assert table.count("not measured") == len(GOALS) - 3  # Triton's processor time was measured, too


def test_goals_of_workloads_that_were_not_chosen_are_left_out():
    some = results(sample("ours"))
    some.settings["workloads"] = ["mlp"]

    assert [line for line in report.goal_table(some).splitlines() if "not measured" in line] == [
        "| 784-float MLP, JSON, 64 clients, requests/s | – | best Python peer | – | – | ≥ 3 × | not measured |",
        "| 784-float MLP, JSON, 64 clients, requests/s | – | Triton | – | – | ≥ 1 × | not measured |",
    ]


def test_a_report_can_be_made_of_whatever_was_kept(tmp_path):
    kept = results(sample("ours", parts={"gateway": 30.0, "postgres": 5.0}), sample("ray:one", p99=None, foreign=0.5))
    kept.failures["bento"] = "not installed"
    kept.save(tmp_path / "kept.json")

    text = report.markdown(Results.load(tmp_path / "kept.json"))

    assert "| iris-64 | 30.0 | 5.0 |" in text
    assert "ray:one †" in text
    assert "no answer" in text
    assert "Failed: bento: not installed" in text
    assert report.markdown(results())  # of an interrupted run, too


def test_every_goal_names_workloads_that_its_peers_are_measured_under():
    for goal in GOALS:
        workload = BY_NAME[goal.peers_in or goal.workload]
        assert set(goal.peers) <= set(workload.peers)
        assert goal.base in {"", *BY_NAME}
        assert DIALECTS[workload.body]["ours"]


def test_a_chosen_workload_brings_what_it_needs():
    assert [workload.name for workload in chosen(["open-loop"])] == ["iris-64", "open-loop"]
    assert [workload.name for workload in chosen(["conv"])] == ["conv-json", "conv-binary"]
    assert len(chosen([])) == len(BY_NAME)
    with pytest.raises(ValueError, match="nonsense"):
        chosen(["nonsense"])
