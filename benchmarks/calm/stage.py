"""What all scenarios play on: the running service, some organizations with keys, the models, and loads beside each other."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import dialects, measuring, models
from benchmarks.failures import Failed, say
from benchmarks.load import Load, Plan, drive
from benchmarks.models import Model
from benchmarks.service import Service
from saas.config import ROOT

TENANTS = 5
MODELS = ("calm-steady", "calm-slow", "calm-echo")  # beside those of the catalogue
# What an operator would do, except that the keys are printed.
MAKE_TENANTS = """
import json, secrets
from django.db import transaction
from billing import plans
from saas.local.bootstrap import DEMO_LIMITS
from tenants import keys
from tenants.access import SYSTEM
from tenants.actions import create_organization
from tenants.permissions import SCOPES
from tenants.scope import tenant_scope
made = []
for number in range(%d):
    with transaction.atomic():
        organization = create_organization(name="Calm", slug=f"calm-{secrets.token_hex(6)}", owner=None, **DEMO_LIMITS)
    plans.change(organization.id, "internal", actor=SYSTEM)
    with tenant_scope(organization.id):
        made.append(keys.issue(organization=organization, name="calm", scopes=SCOPES, created_by=None)[1])
print(json.dumps(made))
"""


@dataclass(frozen=True)
class Stage:
    """`keys`: one API key per organization. `seconds` is how long a scenario's main part lasts, if it is not told otherwise."""

    service: Service
    keys: list[str]
    models: dict[str, Model]
    seconds: float | None
    is_quick: bool

    def lasting(self, usual: float, quick: float) -> float:
        return self.seconds or (quick if self.is_quick else usual)

    def plan(
        self,
        model: str,
        tenants: list[int],
        *,
        clients: int,
        seconds: float,
        rate: float = 0.0,
        dialect: str = "v2",
        name: str = "",
    ) -> Plan:
        """Calls of these tenants, in turn; open loop with a `rate`. `name`: what the model is called, if it is another's."""
        known = self.models[model]
        path = f"/api/v1/models/{name or model}/predict" if dialect == "predict" else f"/v2/models/{name or model}/infer"
        asked = [
            request for tenant in tenants for request in dialects.requests(path, dialect, known, self.authorization(tenant))
        ]
        return Plan(self.service.port, clients, seconds, rate, dialect, asked, known.right_answers() * len(tenants))

    def authorization(self, tenant: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def peak(self, model: str, tenants: list[int], seconds: float, *, clients: int = 32) -> float:
        """Right answers per second in a closed loop. Raises Failed."""
        plan = self.plan(model, tenants, clients=clients, seconds=seconds)
        drive(self.plan(model, tenants, clients=clients, seconds=min(5.0, seconds)))  # warm
        load = drive(plan)
        if not load.good:
            raise Failed(f"{model} gives no right answer: {load.fault}")
        say(f"{model}: peak {load.good / load.seconds:,.1f}/s, p99 {load.p99 * 1000:.1f} ms")
        return load.good / load.seconds


class Driven:
    """A load that runs beside; `wait` gives what came of it, or raises what it raised."""

    def __init__(self, plan: Plan, delay: float = 0.0) -> None:
        self._plan, self._load, self._error = plan, None, None
        self._timer = threading.Timer(delay, self._run)
        self._timer.start()

    _load: Load | None
    _error: Exception | None

    def _run(self) -> None:
        try:
            self._load = drive(self._plan)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            self._error = error

    def wait(self) -> Load:
        self._timer.join()
        if self._load is None:
            raise self._error or RuntimeError("the load did not run")
        return self._load


def together(*plans: Plan) -> list[Load]:
    """Drive the plans at the same time."""
    driven = [Driven(plan) for plan in plans]
    return [one.wait() for one in driven]


def shown(load: Load) -> str:
    fault = f" ({load.fault[:120]})" if load.bad else ""
    return f"{load.good} right, {load.refused} refused, {load.bad - load.refused} other{fault}, p99 {load.p99 * 1000:.1f} ms"


@contextmanager
def stage(cache: Path, seconds: float | None, *, is_quick: bool) -> Iterator[Stage]:
    """Raises Failed."""
    known = {name: models.load(name, cache / "models") for name in ("iris", "digits", *MODELS)}
    service = Service(cache / "home")
    say("starting the service")
    with service:
        for name in MODELS:
            service.publish(known[name])
        keys = make_tenants(service)
        say("warming up")
        ready = Stage(service, keys, known, seconds, is_quick)
        for name in known:
            dialect = "predict" if name == "digits" else "v2"
            load = drive(ready.plan(name, [0], clients=1, seconds=0.0, dialect=dialect))
            if load.bad:
                say(f"{name}: {load.fault}")
        measuring.settle()
        yield ready


def make_tenants(service: Service) -> list[str]:
    """Their keys. Raises Failed."""
    command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", MAKE_TENANTS % TENANTS]
    done = subprocess.run(command, cwd=ROOT, env=service.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"the organizations were not made: {done.stderr.strip()[-300:]}")
    return list(json.loads(done.stdout.strip().splitlines()[-1]))
