"""Clients that give nothing and keep much, beside those who call."""

from benchmarks import dialects
from benchmarks.calm import judging
from benchmarks.calm.crowd import BODY_BYTES, HALF_A_HEAD, PIPELINED, Kind, gathered
from benchmarks.calm.judging import Check
from benchmarks.calm.stage import Driven, Stage, shown
from benchmarks.calm.watching import watching
from benchmarks.failures import say

RATE = 100.0
MOST_BYTES = 768 << 20  # of the gateway: what it takes itself, and 256 MiB of large bodies (saas/protocol.py)


def clients(stage: Stage) -> list[Check]:
    """10,000 idle connections, half heads, slow readers, and bodies of 16 MiB that trickle: memory, and the others."""
    seconds = stage.lasting(60.0, 15.0)
    plan = stage.plan("iris", [1], clients=64, seconds=seconds, rate=RATE)
    before = Driven(plan).wait()
    say(f"alone: {shown(before)}; the crowd gathers")
    with watching(stage.service) as watch, gathered(stage.service.port, crowd(stage)) as all_:
        beside = Driven(plan).wait()
        say(f"beside {all_.size} others: {shown(beside)}; closed: {dict(all_.closed)}")
        size = all_.size
    later = Driven(plan).wait()
    return [
        judging.at_least("connections of the crowd", size, sum(kind.count for kind in crowd(stage))),
        judging.at_most("memory of the gateway at most", watch.most("gateway") / (1 << 20), MOST_BYTES / (1 << 20), " MiB"),
        judging.at_least("goodput, of before", judging.share(beside.good, before.good), 0.95, "%"),
        judging.at_most("p99, × before", judging.ratio(beside.p99, before.p99), 1.5),
        judging.told("p99 before", before.p99 * 1000, " ms"),
        judging.at_most("failed after the crowd has left", later.bad, 0),
    ]


def crowd(stage: Stage) -> list[Kind]:
    echo = dialects.requests("/v2/models/calm-echo/infer", "v2", stage.models["calm-echo"], stage.authorization(2))[0]
    head = "POST /v2/models/iris/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: {stage.authorization(3)['Authorization']}\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    return [
        Kind("idle", 1000 if stage.is_quick else 10_000),
        Kind("half a head", 500, HALF_A_HEAD),
        Kind("slow reader", 100, echo * PIPELINED, is_reading=False),
        Kind("trickled body", 64, head.encode(), trickles=True),
    ]
