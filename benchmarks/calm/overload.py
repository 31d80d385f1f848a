"""Ten times as much as the service can do."""

from benchmarks.calm import judging
from benchmarks.calm.judging import Check
from benchmarks.calm.stage import Driven, Stage, shown
from benchmarks.calm.watching import watching
from benchmarks.failures import say

MODEL = "calm-steady"  # its computation is what is scarce: ten times of what the gateway itself can do, no generator here sends
TIMES = 10
USUAL = 0.5  # of the peak, before and afterwards
CONNECTIONS = 2048
AFTERWARDS = 20.0
SLOWER = 2.0  # times the p99 from before at most, to count as recovered


def overload(stage: Stage) -> list[Check]:
    """Goodput, refusals and memory under it; and how soon after its end all is as before."""
    seconds = stage.lasting(120.0, 15.0)
    peak = stage.peak(MODEL, [0], stage.lasting(30.0, 5.0))
    usual = stage.plan(MODEL, [1], clients=256, seconds=AFTERWARDS, rate=USUAL * peak)
    before = Driven(usual).wait()
    plan = stage.plan(MODEL, [0], clients=CONNECTIONS, seconds=seconds, rate=TIMES * peak)
    say(f"{TIMES} × {peak:,.0f}/s for {seconds:g} s; before it {USUAL:.0%} had a p99 of {before.p99 * 1000:.1f} ms")
    with watching(stage.service) as watch:
        over = Driven(plan)
        after = Driven(usual, delay=seconds)
        load = over.wait()
        say(shown(load))
    later = after.wait()
    sent = load.good + load.bad
    return [
        judging.at_least("offered, × peak", sent / seconds / peak, 0.95 * TIMES),
        judging.at_least("goodput, of peak", load.good / load.seconds / peak, 0.9, "%"),
        judging.at_most("refusals, p99", load.refused_p99 * 1000, 20.0, " ms"),
        judging.at_most("neither answered nor refused with 429/503 and Retry-After", load.bad - load.refused, 0),
        *judging.memory_checks(watch.lasting(watch.memory)),
        judging.at_most("recovered after", judging.recovered_after(later.by_second, SLOWER * before.p99), 5.0, " s"),
        judging.told("p99 of the generator's own lateness", load.late * 1000, " ms"),
    ]
