"""The whole measurement: each peer's configurations are tried, then all systems are measured in turn, round after round."""

import subprocess
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks import measuring, models
from benchmarks.environments import install
from benchmarks.failures import Failed, say
from benchmarks.measuring import Period
from benchmarks.models import Model
from benchmarks.peers import Variant
from benchmarks.results import SCOUTED, Results, Sample
from benchmarks.service import Service
from benchmarks.workloads import DIALECTS, OPEN_SHARE, OURS, Workload

EXPECTED = (Failed, OSError, RuntimeError, subprocess.SubprocessError)  # of one system; the others go on


@dataclass(frozen=True)
class Settings:
    """`ours`, `peers` and `scout`: how long our own system, a peer, and a configuration that is tried are measured."""

    rounds: int
    ours: Period
    peers: Period
    scout: Period
    cache: Path


class Bench:
    """`results` are saved to `file` after each measurement."""

    def __init__(
        self, settings: Settings, workloads: list[Workload], variants: list[Variant], results: Results, file: Path
    ) -> None:
        self.settings, self.workloads, self.results, self.file = settings, workloads, results, file
        self.venvs: dict[str, Path] = {}
        self.variants = self._installed(variants)
        self.models = {name: models.load(name, settings.cache / "models") for name in {w.model for w in workloads}}
        self.open_rate = 0.0  # of this round

    def run(self) -> None:
        for model, workloads in self._by_model():
            self._scout(model, workloads)
        for number in range(1, self.settings.rounds + 1):
            say(f"round {number} of {self.settings.rounds}")
            Service(self._home).reset()  # the ledger of a round would grow to gigabytes in all
            for model, workloads in self._by_model():
                self._measure_ours(model, workloads, number)
                for variant in self._turned(number):
                    mine = [w for w in workloads if self._is_best(variant, w)]
                    self._measure_peer(variant, model, mine, number, self.settings.peers)
        Service(self._home).reset()

    @property
    def _home(self) -> Path:
        return self.settings.cache / "home"

    def _by_model(self) -> list[tuple[Model, list[Workload]]]:
        return [(self.models[name], list(own)) for name, own in groupby(self.workloads, key=lambda w: w.model)]

    def _turned(self, number: int) -> list[Variant]:
        """The peers, beginning with another one in each round."""
        start = (number - 1) % max(1, len(self.variants))
        return self.variants[start:] + self.variants[:start]

    def _installed(self, variants: list[Variant]) -> list[Variant]:
        for peer in dict.fromkeys(variant.peer for variant in variants):
            try:
                self.venvs[peer] = install(peer, self.settings.cache)
            except EXPECTED as error:
                self._fail(peer, error)
        return [variant for variant in variants if variant.peer in self.venvs]

    # --- which configuration is a peer's best

    def _scout(self, model: Model, workloads: list[Workload]) -> None:
        for peer in self.venvs:
            own = [variant for variant in self.variants if variant.peer == peer]
            mine = [w for w in workloads if peer in w.peers and not w.is_open]
            if len(own) > 1 and mine:
                for variant in own:
                    self._measure_peer(variant, model, mine, SCOUTED, self.settings.scout)
            for workload in mine:
                self.results.choose(workload.name, peer)

    def _is_best(self, variant: Variant, workload: Workload) -> bool:
        if variant.peer not in workload.peers:
            return False
        best = self.results.best.get(workload.like or workload.name, {})
        return best.get(variant.peer, variant.label) == variant.label

    # --- measurements

    def _measure_ours(self, model: Model, workloads: list[Workload], number: int) -> None:
        say(f"starting our own service for {model.name}")
        try:
            with Service(self._home) as service:
                service.publish(model)
                measuring.settle()
                for workload in workloads:
                    self._measure_our(service, workload, model, number)
        except EXPECTED as error:
            self._fail(f"{OURS}, {model.name}, round {number}", error)

    def _measure_our(self, service: Service, workload: Workload, model: Model, number: int) -> None:
        try:
            with measuring.our_target(service, workload, model) as target:
                rate = self._rate(workload)
                made = measuring.measure_ours(service, target, workload, model, self.settings.ours, number, rate)
        except EXPECTED as error:
            self._fail(f"{OURS}, {workload.name}, round {number}", error)
            return
        self._keep(made)
        if any(w.is_open and w.like == workload.name for w in self.workloads):
            self.open_rate = OPEN_SHARE * made.rate

    def _rate(self, workload: Workload) -> float:
        if workload.is_open and not self.open_rate:
            raise Failed(f"our peak under {workload.like} is not known")
        return self.open_rate if workload.is_open else 0.0

    def _measure_peer(self, variant: Variant, model: Model, workloads: list[Workload], number: int, period: Period) -> None:
        """One start of the server for each form of the body that it is asked in."""
        for dialect, own in groupby(workloads, key=lambda w: DIALECTS[w.body].get(variant.peer, "")):
            label = f"{variant.label}, {model.name}, {dialect}"
            if not dialect or label in self.results.failures:
                continue
            log = self.settings.cache / "logs" / f"{variant.peer}-{variant.name}-{model.name}.log"
            try:
                with measuring.peer_target(variant, self.venvs[variant.peer], model, dialect, log) as target:
                    for workload in own:
                        rate = self._rate(workload)
                        self._keep(measuring.measure_peer(target, workload, model, period, number, rate))
            except EXPECTED as error:
                self._fail(label, error)

    def _keep(self, sample: Sample) -> None:
        self.results.samples.append(sample)
        self.results.save(self.file)
        latency = ", ".join(
            f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in (("p50", sample.p50), ("p99", sample.p99))
        )
        lag = "" if sample.lag is None else f", lag {sample.lag:.1f} s, {sample.ledger_rows} ledger rows"
        say(
            f"{'trying' if sample.round == SCOUTED else f'round {sample.round}'} {sample.workload} {sample.system}: "
            f"{sample.rate:,.0f}/s, {latency} ms, {sample.cpu:,.0f} µs CPU, {sample.good} right, {sample.bad} not{lag}"
            + (f" ({sample.fault[:120]})" if sample.bad else "")
        )

    def _fail(self, label: str, error: Exception) -> None:
        say(f"{label}: failed: {error}")
        self.results.failures[label] = " ".join(str(error).split())
        self.results.save(self.file)
