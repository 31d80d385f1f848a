"""One drill from its start to its verdict: customers, load, faults one after the other, rest, evidence, findings."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saas.config import ROOT
from tests.drill.checker import Finding, check
from tests.drill.evidence import Evidence
from tests.drill.faults import DrillFailed, Fault, Injector
from tests.drill.gather import gather, hurry_predictions, rest
from tests.drill.hours import Hours
from tests.drill.load import Load
from tests.drill.stage import set_up
from tests.drill.watch import Watch
from tests.service import Service

SEALED_WITHIN = 60.0  # seconds until the last hour is sealed
TOLD_WITHIN = 120.0  # and until Stripe has all of it


@dataclass
class Drilled:
    evidence: Evidence
    findings: list[Finding]
    failure: str  # "" or why the drill itself could not be done
    seconds: float


@contextmanager
def tapped_service() -> Iterator[tuple[Service, Path]]:
    """A service whose processes have the taps, and the directory where they are told what to do."""
    directory = Path(tempfile.mkdtemp(prefix="model-service-drill-"))
    paths = [str(Path(__file__).parent / "hook"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    service = Service(DRILL_DIR=str(directory), PYTHONPATH=os.pathsep.join(paths))
    try:
        yield service.start(), directory
    finally:
        service.remove()
        shutil.rmtree(directory)


class Drill:
    """`run()` does it. `cap`: how many calls are about what each cap allows (stage.py)."""

    def __init__(self, service: Service, directory: Path, faults: list[Fault], *, seed: int, cap: int) -> None:
        self.service, self.directory, self.faults, self.seed, self.cap = service, directory, faults, seed, cap

    def prepare(self) -> None:
        self.stage = set_up(self.service, cap=self.cap)
        self.hours = Hours(self.service)
        self.watch = Watch(self.service, {organization for organization, _ in self.stage.purses})

    async def run(self, *, calls: int, in_flight: int, is_hurried: bool, say: Callable[[str], None] = print) -> Drilled:
        """Load and faults together, until `calls` were made and all faults too. `is_hurried`: no lease is waited for."""
        began = time.monotonic()
        load = Load(self.service.base_url, [*self.stage.limited, *self.stage.free * 3], seed=self.seed)
        running = asyncio.create_task(load.run(in_flight))
        self.watch.start()
        failure = ""
        try:
            await self._strike(load, calls, say)
        except DrillFailed as error:
            failure = str(error)
            say(f"the drill ends early: {failure}")
        load.stop()
        await running
        await load.settle_keys()
        evidence = await self._rest(load, is_hurried)
        self.watch.stop()
        findings = [*check(evidence), *await asyncio.to_thread(self._verify)]
        return Drilled(evidence, findings, failure, time.monotonic() - began)

    async def _strike(self, load: Load, calls: int, say: Callable[[str], None]) -> None:
        """The faults, spread evenly over the calls, one after the other."""
        caller = self.stage.free[-1]
        injector = Injector(self.service, self.directory, seed=self.seed, probe=lambda: load.probe(caller), hours=self.hours)
        for index, fault in enumerate(self.faults):
            await self._reached(load, calls * index // len(self.faults))
            await injector.inject(fault)
            say(f"{fault.number}/{len(self.faults)} {fault}: back after {fault.back_after:.1f} s, {len(load.requests)} calls")
        await self._reached(load, calls)

    @staticmethod
    async def _reached(load: Load, calls: int) -> None:
        while len(load.requests) < calls:
            await asyncio.sleep(0.1)

    async def _rest(self, load: Load, is_hurried: bool) -> Evidence:
        """Wait until nothing is under way, see what each purse says then, end the last hour, and have Stripe told of it."""
        organizations = [customer.organization for customer in self.stage.customers]
        if is_hurried:
            await asyncio.to_thread(hurry_predictions, self.service, organizations)
        await asyncio.to_thread(rest, self.service, organizations)
        rested_at = time.monotonic()
        with_purses = {organization for organization, _ in self.stage.purses}
        await load.call_once_more([caller for caller in self.stage.callers if caller.organization in with_purses])
        await asyncio.to_thread(rest, self.service, organizations)
        await asyncio.to_thread(self._tell)
        upsets = [upset for fault in self.faults if fault.began_at for upset in fault.upsets()]
        more = {"upsets": upsets, "peaks": self.watch.peaks, "rested_at": rested_at}
        return await asyncio.to_thread(gather, self.service, self.stage, load.requests, **more)

    def _tell(self) -> None:
        """Not for ever: the checker names what Stripe was not told."""
        self.hours.end_one()
        if self.hours.are_sealed(within=SEALED_WITHIN):
            self.hours.are_told(self.stage.subscribed, within=TOLD_WITHIN)

    def _verify(self) -> list[Finding]:
        """What the platform's own comparisons say: of the books, and of usage with Stripe."""
        compare = f"from tests.drill.hours import compared; compared({sorted(self.stage.subscribed)!r})"
        return [
            *_said("verify_books", self.service, "verify_books"),
            *_said("reconciled", self.service, "shell", "-v", "0", "-c", compare),
        ]


def _said(name: str, service: Service, *arguments: str) -> list[Finding]:
    """What a management command says if its status is not 0."""
    command = [sys.executable, "manage.py", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=service.given, capture_output=True, text=True, check=False)
    return [Finding(name, line) for line in (ended.stdout or ended.stderr).splitlines() if ended.returncode]
