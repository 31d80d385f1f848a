"""The tables, as Markdown for docs/performance.md."""

from collections.abc import Iterable
from typing import Any

from benchmarks import goals
from benchmarks.peers import VARIANTS
from benchmarks.results import SCOUTED, Results, Sample, median
from benchmarks.workloads import GOALS, OURS, WORKLOADS, Goal, Workload

FOREIGN = 0.1  # cores; a measurement with more of other work beside it is marked
FORMS = {"rate": "{:,.0f}", "mb": "{:,.1f}", "p50": "{:.2f}", "p99": "{:.2f}", "cpu": "{:,.0f}"}
UNITS = {"rate": "/s", "mb": " MB/s", "p50": " ms", "p99": " ms", "cpu": " µs"}
PARTS = ("gateway", "bare gateway", "worker", "state", "lanes", "bookkeeper", "postgres", "supervisor", "ops", "beat")


def markdown(results: Results) -> str:
    parts = [facts(results), goal_table(results), conditions(results)]
    parts += [
        workload_table(results, workload)
        for workload in WORKLOADS
        if results.of(workload.name, OURS) or _has_peers(results, workload)
    ]
    parts += [parts_table(results), configurations(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(results: Results) -> str:
    machine, settings = results.machine, results.settings
    peers = [f"{peer} ({_versions(versions)})" for peer, versions in machine["peers"].items()]
    load = ", ".join(str(average) for average in machine["load_before"])
    return "\n".join(
        [
            "## Side by side",
            "",
            f"- {machine['date']}: {machine['processor']}, {machine['cores']} cores that the load generator shares, "
            f"{machine['memory_gib']:g} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
            f"load averages before: {load}",
            f"- {settings['rounds']} interleaved rounds; our service {settings['seconds']:g} s each time, with everything on: "
            "key, limits, idempotency check, durable books, drain, request log; "
            f"peers {settings['peer_seconds']:g} s with nothing on",
            f"- ours: {_versions(machine['ours'])}",
            *([f"- peers: {'; '.join(peers)}"] if peers else []),
        ]
    )


def goal_table(results: Results) -> str:
    lines = [
        "### Goals",
        "",
        "Medians of the rounds; the ratio is ours to theirs, in brackets the least and most within one round.",
        "",
        "| workload | ours | against | theirs | ratio | goal | |",
        "|---|---:|---|---:|---:|---|---|",
    ]
    chosen = results.settings["workloads"]
    return "\n".join([*lines, *(goal_row(goal, results) for goal in GOALS if goal.workload in chosen)])


def goal_row(goal: Goal, results: Results) -> str:
    wanted = f"≥ {goal.least:g} ×" if goal.least is not None else f"≤ {goal.most:g} ×" if goal.most is not None else "told"
    found = goals.verdict(goal, results)
    if found is None:
        return _row(goal.title, "–", goal.against, "–", "–", wanted, "not measured")
    against = goal.against if goal.base else f"{goal.against}: {found.system}"
    least, most = found.spread
    ratio = f"{found.ratio:.2f} ({least:.2f}–{most:.2f})"
    state = {True: "met", False: "**missed**", None: ""}[found.is_met]
    return _row(goal.title, _amount(found.ours, goal.metric), against, _amount(found.theirs, goal.metric), ratio, wanted, state)


def conditions(results: Results) -> str:
    """How far the figures can be trusted."""
    samples = [sample for sample in results.samples if sample.round != SCOUTED]
    if not samples:
        return ""
    lags = [sample.lag for sample in samples if sample.lag is not None]
    disturbed = [sample for sample in samples if sample.foreign > FOREIGN]
    lines = ["### Conditions", ""]
    if lags:
        lines.append(f"- The drain was at most {max(lags):.1f} s behind; the ledger was compared with the answers each time.")
    lines += [f"- **Void:** {complaint}" for complaint in goals.complaints(results)]
    lines.append(
        f"- The load generator took at most {max(s.generator for s in samples):.2f} cores, and sent what was due at most "
        f"{max(s.late for s in samples):.2f} ms late (99th percentile)."
    )
    lines.append(
        f"- Other work took at most {max(s.foreign for s in samples):.2f} cores; {len(disturbed)} of {len(samples)} "
        f"measurements had more than {FOREIGN:g} of it beside them, marked †."
    )
    lines += [f"- Failed: {label}: {reason}" for label, reason in results.failures.items()]
    return "\n".join(lines)


def workload_table(results: Results, workload: Workload) -> str:
    """Each system's best configuration: median (least–most)."""
    form = "open loop" if workload.is_open else f"{workload.clients} clients"
    mode = f", ours: {workload.mode}" if workload.mode else ""
    rate = next((f" at {s.asked_rate:,.0f}/s" for s in results.of(workload.name, OURS) if s.asked_rate), "")
    lines = [
        f"### {workload.name}: {workload.model}, {workload.body}, {form}{rate}{mode}",
        "",
        "| system | requests/s | MB/s | p50 ms | p99 ms | CPU µs a request | not right |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    found = {peer: results.of(workload.name, peer) for peer in (OURS, *workload.peers)}
    ordered = sorted((samples for samples in found.values() if samples), key=lambda own: -(median(own, "rate") or 0.0))
    return "\n".join([*lines, *(system_row(samples) for samples in ordered)])


def system_row(samples: list[Sample]) -> str:
    name = samples[0].system + (" †" if any(sample.foreign > FOREIGN for sample in samples) else "")
    cells = [_spread(samples, metric) for metric in ("rate", "mb", "p50", "p99", "cpu")]
    return _row(name, *cells, str(sum(sample.bad for sample in samples)))


def parts_table(results: Results) -> str:
    """Where our processor time goes: medians in µs a request."""
    names = [workload.name for workload in WORKLOADS if results.of(workload.name, OURS)]
    if not names:
        return ""
    used = {name: _median_parts(results.of(name, OURS)) for name in names}
    parts = [part for part in PARTS if any(part in of for of in used.values())]
    lines = ["### Our CPU µs a request, by part", "", _row("workload", *parts), _row("---", *("---:" for _ in parts))]
    return "\n".join(
        [*lines, *(_row(name, *(f"{of[part]:.1f}" if part in of else "–" for part in parts)) for name, of in used.items())]
    )


def configurations(results: Results) -> str:
    used = {sample.system for sample in results.samples if sample.round != SCOUTED}
    lines = [f"- {variant.label}: {variant.note}" for variant in VARIANTS if variant.label in used]
    head = ["### Configurations of the peers", "", "Of those tried before the rounds, the fastest under each workload:", ""]
    return "\n".join([*head, *lines]) if lines else ""


def _median_parts(samples: list[Sample]) -> dict[str, float]:
    """Parts by name; a worker that was replaced has another name and counts as `worker`."""
    names = dict.fromkeys(name for sample in samples for name in sample.parts)
    ordered = {name: sorted(sample.parts.get(name, 0.0) for sample in samples) for name in names}
    return {name: values[len(values) // 2] for name, values in ordered.items()}


def _has_peers(results: Results, workload: Workload) -> bool:
    return any(results.of(workload.name, peer) for peer in workload.peers)


def _spread(samples: list[Sample], metric: str) -> str:
    values = [float("inf") if (value := getattr(sample, metric)) is None else float(value) for sample in samples]
    middle = median(samples, metric)
    assert middle is not None
    if len(values) == 1:
        return _number(middle, metric)
    return f"{_number(middle, metric)} ({_number(min(values), metric)}–{_number(max(values), metric)})"


def _number(value: float, metric: str) -> str:
    return "no answer" if value == float("inf") else FORMS[metric].format(value)


def _amount(value: float, metric: str) -> str:
    return _number(value, metric) + ("" if value == float("inf") else UNITS[metric])


def _versions(versions: dict[str, Any]) -> str:  # Any: JSON
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _row(*cells: Iterable[str] | str) -> str:
    return f"| {' | '.join(map(str, cells))} |"
