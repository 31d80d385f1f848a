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
from saas.lib.ids import parse_id
from tests.drill.checker import Finding, check
from tests.drill.evidence import Caller, Evidence
from tests.drill.faults import DrillFailed, Fault, Injector
from tests.drill.gather import gather, hurry_predictions, rest
from tests.drill.load import SHARED, Load
from tests.e2e.customers import Customer, identity_model
from tests.service import Service

SCOPES = ["predictions:write", "predictions:read", "models:read"]


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
    """`run()` does it. `cap`: calls a month of one organization; as many again are one key's of another."""

    def __init__(self, service: Service, directory: Path, faults: list[Fault], *, seed: int, cap: int) -> None:
        self.service, self.directory, self.faults, self.seed, self.cap = service, directory, faults, seed, cap
        self.caps: dict[tuple[str, str], int] = {}

    def prepare(self) -> None:
        """Three organizations with two keys each: one capped as a whole, one with a capped key, one without any cap."""
        self.customers = [Customer(self.service) for _ in range(3)]
        for number, customer in enumerate(self.customers):
            customer.upload(f"drilled-{number}", identity_model())
        capped, half, _ = self.customers
        self._grant({customer.organization: self.cap if customer is capped else None for customer in self.customers})
        self.caps[capped.organization, ""] = self.cap
        self.callers = [
            self._caller(customer, number, {"monthly_calls": self.cap} if customer is half and second else {})
            for number, customer in enumerate(self.customers)
            for second in (False, True)
        ]
        self.caps[half.organization, self.callers[3].key] = self.cap

    def _grant(self, monthly_calls: dict[str, int | None]) -> None:
        """What an operator may: each organization's cap, and no other limit that the load could meet; the shared model."""
        with tempfile.NamedTemporaryFile(suffix=".onnx") as artifact:
            artifact.write(identity_model())
            artifact.flush()
            publish = f"call_command('publish', {artifact.name!r}, '--name', {SHARED.partition('/')[2]!r})"
            price = f"call_command('set_price', {SHARED!r}, '--row=0.0001', '--second=0.5')"
            set_limits = "set_organization_limits(UUID(o), rate=1e6, burst=1000000, concurrency=10000, monthly_calls=n)"
            imports = "from uuid import UUID; from django.core.management import call_command; from tenants.actions import *"
            imports += "; from billing.sale.plans import change"
            grant = f"[(change(UUID(o), 'custom', actor=SYSTEM), {set_limits}) for o, n in {monthly_calls}.items()]"
            self.service.manage("shell", "-c", f"{imports}; {publish}; {price}; {grant}")

    @staticmethod
    def _caller(customer: Customer, number: int, limits: dict[str, int]) -> Caller:
        made = customer.post("keys", json={"name": "drill", "scopes": SCOPES, "limits": limits})
        assert made.status_code == 201, made.text
        key = parse_id("key", made.json()["id"])
        assert key is not None
        return Caller(customer.organization, key.hex, made.json()["key"], f"drilled-{number}")

    async def run(self, *, calls: int, in_flight: int, is_hurried: bool, say: Callable[[str], None] = print) -> Drilled:
        """Load and faults together, until `calls` were made and all faults too. `is_hurried`: no lease is waited for."""
        began = time.monotonic()
        capped = [
            caller
            for caller in self.callers
            if {(caller.organization, ""), (caller.organization, caller.key)} & self.caps.keys()
        ]
        often = [caller for caller in self.callers if caller not in capped] * 3  # the others soon get nothing but refusals
        load = Load(self.service.base_url, [*capped, *often], seed=self.seed)
        running = asyncio.create_task(load.run(in_flight))
        failure = ""
        try:
            await self._strike(load, calls, say)
        except DrillFailed as error:
            failure = str(error)
            say(f"the drill ends early: {failure}")
        load.stop()
        await running
        await load.settle_keys()
        evidence = await asyncio.to_thread(self._rest, load, is_hurried)
        findings = [*check(evidence), *await asyncio.to_thread(verify_books, self.service)]
        return Drilled(evidence, findings, failure, time.monotonic() - began)

    async def _strike(self, load: Load, calls: int, say: Callable[[str], None]) -> None:
        """The faults, spread evenly over the calls, one after the other."""
        injector = Injector(self.service, self.directory, seed=self.seed, probe=lambda: load.probe(self.callers[-1]))
        for index, fault in enumerate(self.faults):
            await self._reached(load, calls * index // len(self.faults))
            await injector.inject(fault)
            say(f"{fault.number}/{len(self.faults)} {fault}: back after {fault.back_after:.1f} s, {len(load.requests)} calls")
        await self._reached(load, calls)

    @staticmethod
    async def _reached(load: Load, calls: int) -> None:
        while len(load.requests) < calls:
            await asyncio.sleep(0.1)

    def _rest(self, load: Load, is_hurried: bool) -> Evidence:
        organizations = [customer.organization for customer in self.customers]
        if is_hurried:
            hurry_predictions(self.service, organizations)
        rest(self.service, organizations)
        upsets = [upset for fault in self.faults if fault.began_at for upset in fault.upsets()]
        return gather(self.service, self.customers, load.requests, caps=self.caps, upsets=upsets)


def verify_books(service: Service) -> list[Finding]:
    """What `manage.py verify_books` says of rows, hours, months and accounts, if they disagree."""
    command = [sys.executable, "manage.py", "verify_books"]
    ended = subprocess.run(command, cwd=ROOT, env=service.given, capture_output=True, text=True, check=False)
    return [Finding("verify_books", line) for line in (ended.stdout or ended.stderr).splitlines() if ended.returncode]
