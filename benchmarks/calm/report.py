"""What came of the scenarios: a JSON file that is whole after each of them, and a table."""

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.calm.judging import Check


class Finding(msgspec.Struct):
    """One scenario. `fault` says why it could not be played; then it has no checks."""

    scenario: str
    checks: list[Check] = []
    seconds: float = 0.0
    fault: str = ""

    @property
    def is_met(self) -> bool:
        return not self.fault and all(check.is_met is not False for check in self.checks)


class Report(msgspec.Struct):
    """`machine` says where and when: machine.facts."""

    machine: dict[str, Any]  # Any: JSON
    findings: list[Finding] = []

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.new")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        unfinished.replace(file)

    @property
    def is_met(self) -> bool:
        return all(finding.is_met for finding in self.findings)


def markdown(report: Report) -> str:
    machine = report.machine
    lines = [
        "## Calm under load",
        "",
        f"- {machine['date']}: {machine['processor']}, {machine['cores']} cores that the load generators share, "
        f"{machine['memory_gib']:g} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"load averages before: {', '.join(map(str, machine['load_before']))}",
        "",
        "| scenario | what | seen | goal | |",
        "|---|---|---:|---|---|",
    ]
    return "\n".join([*lines, *(row for finding in report.findings for row in rows(finding))]) + "\n"


def rows(finding: Finding) -> list[str]:
    if finding.fault:
        return [f"| {finding.scenario} | not played: {finding.fault} | – | – | **missed** |"]
    state = {True: "met", False: "**missed**", None: ""}
    return [f"| {finding.scenario} | {c.what} | {c.seen} | {c.goal} | {state[c.is_met]} |" for c in finding.checks]
