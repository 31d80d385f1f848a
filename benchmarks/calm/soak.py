"""A mixed load for long: nothing grows."""

from benchmarks.calm import judging
from benchmarks.calm.judging import Check
from benchmarks.calm.stage import Driven, Stage, shown
from benchmarks.calm.watching import watching
from benchmarks.failures import say


def soak(stage: Stage) -> list[Check]:
    """Small and longer models, images and large answers, of all organizations: memory and descriptors of every process."""
    seconds = stage.lasting(3600.0, 60.0)
    plans = [
        stage.plan("iris", [0, 1, 2], clients=32, seconds=seconds, rate=100.0),
        stage.plan("calm-steady", [1, 2, 3], clients=32, seconds=seconds, rate=20.0),
        stage.plan("digits", [3, 4], clients=8, seconds=seconds, rate=5.0, dialect="predict"),
        stage.plan("calm-echo", [4], clients=8, seconds=seconds, rate=5.0),
    ]
    say(f"for {seconds:g} s")
    with watching(stage.service) as watch:
        loads = [load.wait() for load in [Driven(plan) for plan in plans]]
    for load in loads:
        say(shown(load))
    return [
        *judging.memory_checks(watch.lasting(watch.memory)),
        *judging.file_checks(watch.lasting(watch.files)),
        judging.at_least("right answers", sum(load.good for load in loads), 1),
        judging.at_most("calls without a right answer", sum(load.bad for load in loads), 0),
    ]
