"""Those who share a model, or a worker, with one that takes more than its share."""

from benchmarks.calm import judging
from benchmarks.calm.judging import Check
from benchmarks.calm.stage import TENANTS, Driven, Stage, shown, together
from benchmarks.failures import say

MODEL = "calm-steady"
OTHERS = list(range(1, TENANTS))
USUAL = 0.6  # of its fair share, that each organization asks for
GREED = 50  # times its fair share
FAST_RATE = 100.0
SLOW_CLIENTS = 4


def greedy(stage: Stage) -> list[Check]:
    """One organization asks for 50 × its fair share of a model; before, it asked for as much as the others."""
    seconds = stage.lasting(60.0, 10.0)
    fair = stage.peak(MODEL, [0, *OTHERS], stage.lasting(30.0, 5.0)) / TENANTS
    others = stage.plan(MODEL, OTHERS, clients=256, seconds=seconds, rate=USUAL * fair * len(OTHERS))
    modest = stage.plan(MODEL, [0], clients=64, seconds=seconds, rate=USUAL * fair)
    before, _ = together(others, modest)
    say(
        f"the others before: {before.good} right, {before.bad} not, p99 {before.p99 * 1000:.1f} ms; now 50 × {fair:,.1f}/s come"
    )
    beside, greed = together(others, stage.plan(MODEL, [0], clients=2048, seconds=seconds, rate=GREED * fair))
    say(f"the others beside: {shown(beside)}; the greedy one: {shown(greed)}")
    return [
        judging.at_least("the others' goodput, of before", judging.share(beside.good, before.good), 0.95, "%"),
        judging.at_most("the others' p99, × before", judging.ratio(beside.p99, before.p99), 1.5),
        judging.told("the others' p99 before", before.p99 * 1000, " ms"),
        judging.told("the greedy one's goodput, × its fair share", greed.good / greed.seconds / fair),
        judging.at_most("its calls neither answered nor refused with Retry-After", greed.bad - greed.refused, 0),
    ]


def slow_beside_fast(stage: Stage) -> list[Check]:
    """A model of 2 s keeps the worker busy, while another organization calls a fast one."""
    seconds = stage.lasting(60.0, 15.0)
    fast = stage.plan("iris", [1], clients=64, seconds=seconds, rate=FAST_RATE)
    alone = Driven(fast).wait()
    say(f"the fast one alone: {shown(alone)}")
    slow = stage.plan("calm-slow", [0], clients=SLOW_CLIENTS, seconds=seconds)
    beside, slower = together(fast, slow)
    say(f"beside the slow one: {shown(beside)}; the slow one: {shown(slower)}")
    return [
        judging.at_most("the fast one's p99, × alone", judging.ratio(beside.p99, alone.p99), 3.0),
        judging.told("the fast one's p99 alone", alone.p99 * 1000, " ms"),
        judging.at_least("the slow one's answers", slower.good, 1),
        judging.at_most("the slow one's neither answered nor refused with Retry-After", slower.bad - slower.refused, 0),
    ]
