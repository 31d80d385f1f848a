"""`python -m benchmarks` (`make bench`): this service with everything on, other model servers with nothing on, side by side."""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks import goals, machine, peers, processes, report, workloads
from benchmarks.failures import say
from benchmarks.measuring import Period
from benchmarks.peers import Variant
from benchmarks.results import Results
from benchmarks.rounds import Bench, Settings
from benchmarks.workloads import OURS, Workload
from saas.config import ROOT

CACHE = ROOT / ".local" / "bench"


def main() -> int:
    given = arguments()
    if given.report:
        print(report.markdown(Results.load(given.report)))
        return 0
    try:
        chosen = workloads.chosen(given.only)
        variants = [] if given.no_peers else peers.select(given.peers)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    settings = settings_of(given)
    file = given.json or settings.cache / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    results = measured(chosen, variants, settings, file)
    print(report.markdown(results))
    return 1 if goals.complaints(results) or any(label.startswith(OURS) for label in results.failures) else 0


def measured(chosen: list[Workload], variants: list[Variant], settings: Settings, file: Path) -> Results:
    """What was measured until the end, or until it was interrupted."""
    os.umask(0o077)  # the logs hold keys
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # an exception, so that everything is stopped
    processes.adopt_orphans()
    results = Results(
        machine.facts(list(dict.fromkeys(variant.peer for variant in variants))),
        {
            "rounds": settings.rounds,
            "seconds": settings.ours.measured,
            "peer_seconds": settings.peers.measured,
            "workloads": [workload.name for workload in chosen],
        },
    )
    say(f"measurements are kept in {file}")
    with contextlib.suppress(KeyboardInterrupt):
        Bench(settings, chosen, variants, results, file).run()
    return results


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(workloads.BY_NAME)
    parser.add_argument("--quick", action="store_true", help="one round of a few seconds: to see that all works")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORKLOAD", help=f"of {names}; `iris` means all iris-…")
    parser.add_argument("--peers", nargs="+", default=[], metavar="PEER", help="like triton, or one configuration: ray:batch")
    parser.add_argument("--no-peers", action="store_true", help="our own service alone")
    parser.add_argument("--rounds", type=int, help="interleaved rounds; default 5")
    parser.add_argument("--seconds", type=float, help="that our own service is measured each time; default 60")
    parser.add_argument("--peer-seconds", type=float, help="that a peer is; default a third of it")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where measurements are kept; default a new file in the cache"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="only print the tables of such a file")
    given = parser.parse_args()
    if given.no_peers and given.peers:
        parser.error("--no-peers and --peers exclude each other")
    return given


def settings_of(given: argparse.Namespace) -> Settings:
    rounds, seconds = (1, 5.0) if given.quick else (5, 60.0)
    seconds = given.seconds or seconds
    others = given.peer_seconds or (seconds if given.quick else seconds / 3)
    warmup = min(5.0, seconds / 4)
    return Settings(
        rounds=given.rounds or rounds,
        ours=Period(warmup, seconds),
        peers=Period(warmup, others),
        scout=Period(min(2.0, warmup), min(6.0, others)),
        cache=Path(os.environ.get("BENCH_CACHE") or CACHE).resolve(),
    )


if __name__ == "__main__":
    sys.exit(main())
