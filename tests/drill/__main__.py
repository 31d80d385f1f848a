"""`make drill ARGS="--seed 7 --faults 200 --calls 500000"`: the long form. Exit status 1 if anything does not hold."""

import argparse
import asyncio
import json
import secrets
import sys
from collections import Counter
from pathlib import Path

from tests.drill.checker import totals
from tests.drill.drill import Drill, Drilled, tapped_service
from tests.drill.evidence import Evidence, Purse
from tests.drill.faults import PARTS, Fault, plan

SHOWN = 20  # findings that are printed; the file has all


def main() -> int:
    parser = argparse.ArgumentParser(prog="make drill ARGS=…", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--calls", type=int, default=500_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--stop-seconds", type=float, default=15.0, help="how long a SIGSTOP lasts")
    parser.add_argument("--out", type=Path, default=Path("drill.json"))
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.faults} faults, at least {options.calls} calls", flush=True)
    faults = plan(options.faults, seed=options.seed, seconds=options.stop_seconds)
    with tapped_service() as (service, directory):
        drill = Drill(service, directory, faults, seed=options.seed, cap=max(100, options.calls // 20))
        drill.prepare()
        drilled = asyncio.run(drill.run(calls=options.calls, in_flight=options.clients, is_hurried=False, say=_say))
    report = report_of(drilled, faults, seed=options.seed)
    options.out.write_text(json.dumps(report, indent=1))
    print("\n".join(lines_of(report, drilled)))
    return 1 if drilled.failure or drilled.findings else 0


def report_of(drilled: Drilled, faults: list[Fault], *, seed: int) -> dict:
    done = [fault for fault in faults if fault.back_after]
    rows = Counter(row.kind for row in drilled.evidence.rows)
    return {
        "seed": seed,
        "seconds": round(drilled.seconds, 1),
        "failure": drilled.failure,
        "calls": len(drilled.evidence.requests),
        "outcomes": {f"{kind}: {what}": n for (kind, what), n in sorted(drilled.evidence.statuses().items())},
        "rows": dict(rows),
        "predictions": dict(
            Counter(f"{prediction.status} {prediction.code}".strip() for prediction in drilled.evidence.predictions)
        ),
        "caps": [_used(drilled, *scope, most) for scope, most in drilled.evidence.caps.items()],
        "purses": [_spent(drilled, *scope, purse) for scope, purse in drilled.evidence.purses.items()],
        "usage": _usage(drilled.evidence),
        "faults": [vars(fault) for fault in done],
        "findings": [finding._asdict() for finding in drilled.findings],
        "totals": totals(drilled.findings),
    }


def _used(drilled: Drilled, organization: str, key: str, most: int) -> dict[str, int]:
    mine = [row for row in drilled.evidence.rows if row.organization == organization and key in ("", row.key)]
    return {"cap": most, "charged": sum(row.kind == "usage" for row in mine)}


def _spent(drilled: Drilled, organization: str, key: str, purse: Purse) -> dict[str, str | int]:
    """In nano. `highest`: what the account held at most, with what was under way at its most."""
    evidence = drilled.evidence
    highest = [nano for (of, period), (_, nano) in evidence.peaks[organization].items() if of == key and purse.counts(period)]
    mine = [row.nano for row in evidence.rows if row.organization == organization and key in ("", row.key)]
    source = "key" if key else "organization"
    refused = [
        request
        for request in evidence.requests
        if request.caller.organization == organization and request.cap and request.cap.source == source
    ]
    return {
        **{"kind": purse.kind, "of": source, "limit": purse.limit},
        **{"charged": sum(mine), "highest": max(highest, default=0), "refused": len(refused)},
    }


def _usage(evidence: Evidence) -> dict[str, int]:
    return {
        "seals": len(evidence.seals),
        "rows_for_stripe": len(evidence.told),
        "events_at_stripe": len(evidence.counted),
        "units_told": sum(told.value for told in evidence.told),
        "units_at_stripe": sum(event.value for event in evidence.counted),
    }


def lines_of(report: dict, drilled: Drilled) -> list[str]:
    faults = Counter((fault["part"], fault["kind"], fault["point"] or "random time") for fault in report["faults"])
    points = sorted({point for _, _, point in faults})
    lines = [f"{'point':<20} {'signal':<6} " + " ".join(f"{part:>10}" for part in PARTS)]
    for point in points:
        for kind in ("KILL", "STOP", "TERM"):
            counts = [faults[part, kind, point] for part in PARTS]
            if any(counts):
                lines.append(f"{point:<20} {kind:<6} " + " ".join(f"{count or '·':>10}" for count in counts))
    lines += [f"{finding.name}: {finding.text}" for finding in drilled.findings[:SHOWN]]
    lines.append(f"{report['calls']} calls, rows {report['rows']}, predictions {report['predictions']}, caps {report['caps']}")
    lines += [f"{purse}" for purse in report["purses"]] + [f"usage: {report['usage']}"]
    lines.append(f"{len(report['faults'])} faults in {report['seconds']:.0f} s, seed {report['seed']}")
    told = report["totals"]
    lines.append(
        "lost/double/leaked/over-cap: " + " ".join(str(told[name]) for name in ("lost", "double", "leaked", "over-cap"))
    )
    lines.append(f"other findings: {told['other']}" + (f"; the drill failed: {report['failure']}" if report["failure"] else ""))
    return lines


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
