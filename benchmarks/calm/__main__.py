"""`python -m benchmarks.calm` (`make calm`): overload, greed, slow models, slow clients, changes under load, a soak."""

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import requests

from benchmarks import machine, processes
from benchmarks.calm.change import change
from benchmarks.calm.clients import clients
from benchmarks.calm.judging import Check
from benchmarks.calm.overload import overload
from benchmarks.calm.report import Finding, Report, markdown
from benchmarks.calm.sharing import greedy, slow_beside_fast
from benchmarks.calm.soak import soak
from benchmarks.calm.stage import Stage, stage
from benchmarks.failures import Failed, say
from saas.config import ROOT

CACHE = ROOT / ".local" / "calm"
SCENARIOS: dict[str, Callable[[Stage], list[Check]]] = {
    "overload": overload,
    "greedy": greedy,
    "slow-beside-fast": slow_beside_fast,
    "clients": clients,
    "change": change,
    "soak": soak,
}
EXPECTED = (Failed, OSError, RuntimeError, subprocess.SubprocessError, requests.RequestException)  # the others are played
FILES = 32_768


def main() -> int:
    given = arguments()
    os.umask(0o077)  # the logs hold keys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    processes.adopt_orphans()
    allow_files()
    cache = Path(os.environ.get("CALM_CACHE") or CACHE).resolve()
    file = given.json or cache / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    report = Report(machine.facts([]))
    say(f"findings are kept in {file}")
    with contextlib.suppress(KeyboardInterrupt), stage(cache, given.seconds, is_quick=given.quick) as ready:
        for name in given.scenario or SCENARIOS:
            report.findings.append(played(name, ready))
            report.save(file)
    print(markdown(report))
    return 0 if report.is_met else 1


def played(name: str, stage: Stage) -> Finding:
    say(f"scenario {name}")
    began = time.monotonic()
    try:
        checks, fault = SCENARIOS[name](stage), ""
    except EXPECTED as error:
        checks, fault = [], " ".join(str(error).split())
    finding = Finding(name, checks, time.monotonic() - began, fault)
    say(f"scenario {name}: {'met' if finding.is_met else f'missed {fault}'}")
    return finding


def allow_files() -> None:
    """As many descriptors as 10,000 connections take, in what we start too; what the machine allows, if that is less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calm", description=__doc__)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=[], help="default: all, one after the other")
    parser.add_argument("--seconds", type=float, help="of each scenario's main load; default: 1 to 5 minutes, an hour for soak")
    parser.add_argument("--quick", action="store_true", help="some seconds each: to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where findings are kept; default a new file in the cache")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
