"""Whether goals are met: our median beside the best median of those that it is compared with."""

import math
from dataclasses import dataclass

from benchmarks.results import Results, Sample
from benchmarks.workloads import OURS, Goal

LOWER_IS_BETTER = ("p50", "p99", "cpu")
MAX_LAG = 5.0  # seconds


@dataclass(frozen=True)
class Verdict:
    """`ratio` is ours to theirs; `spread` the smallest and largest ratio within one round. `is_met` is None without a goal."""

    ours: float
    theirs: float
    system: str  # that of theirs
    ratio: float
    spread: tuple[float, float]
    is_met: bool | None


def verdict(goal: Goal, results: Results) -> Verdict | None:
    """None if one side was not measured."""
    mine = results.median(goal.workload, OURS, goal.metric)
    other = (OURS, results.of(goal.base, OURS)) if goal.base else best_peer(goal, results)
    if mine is None or other is None or not other[1]:
        return None
    peer, samples = other
    theirs = results.median(samples[0].workload, peer, goal.metric)
    assert theirs is not None
    pairs = paired(results.of(goal.workload, OURS), samples)
    ratios = [_ratio(_value(own, goal.metric), _value(their, goal.metric)) for own, their in pairs]
    ratio = _ratio(mine, theirs)
    return Verdict(
        mine, theirs, samples[0].system, ratio, (min(ratios, default=ratio), max(ratios, default=ratio)), met(goal, ratio)
    )


def met(goal: Goal, ratio: float) -> bool | None:
    if goal.least is None and goal.most is None:
        return None
    if math.isnan(ratio):
        return False
    return (goal.least is None or ratio >= goal.least) and (goal.most is None or ratio <= goal.most)


def best_peer(goal: Goal, results: Results) -> tuple[str, list[Sample]] | None:
    """The peer with the best median; one with wrong answers is as good as its right ones."""
    workload = goal.peers_in or goal.workload
    medians = {peer: value for peer in goal.peers if (value := results.median(workload, peer, goal.metric)) is not None}
    if not medians:
        return None
    pick = min if goal.metric in LOWER_IS_BETTER else max
    best = pick(medians, key=lambda peer: medians[peer])
    return best, results.of(workload, best)


def paired(ours: list[Sample], theirs: list[Sample]) -> list[tuple[Sample, Sample]]:
    """Those of the same round."""
    by_round = {sample.round: sample for sample in theirs}
    return [(sample, by_round[sample.round]) for sample in ours if sample.round in by_round]


def complaints(results: Results) -> list[str]:
    """What makes our samples void: a wrong answer, a drain that fell behind, a ledger that does not hold each call once."""
    found = []
    for sample in results.samples:
        name = f"{sample.workload}, round {sample.round}"
        if sample.system != OURS:
            continue
        if sample.bad:
            found.append(f"{name}: {sample.bad} calls got no right answer: {sample.fault}")
        if sample.lag is not None and sample.lag > MAX_LAG:
            found.append(f"{name}: the drain was {sample.lag:.1f} s behind, more than {MAX_LAG:g}")
        if sample.ledger_rows is not None and not sample.bad and sample.ledger_rows != sample.good:
            found.append(f"{name}: {sample.good} answers, but {sample.ledger_rows} rows in the ledger")
    return found


def _value(sample: Sample, metric: str) -> float:
    value = getattr(sample, metric)
    return math.inf if value is None else float(value)


def _ratio(ours: float, theirs: float) -> float:
    """nan if both are infinite, or theirs is 0."""
    if not theirs or (math.isinf(ours) and math.isinf(theirs)):
        return math.nan
    return ours / theirs
