"""The drill's hours: it puts the clock forward, so that hours end, are sealed, and Stripe is told what was used in them."""

import sqlite3
import sys
import time
from collections.abc import Callable
from uuid import UUID

import requests
from celery import Celery

from tests.drill.evidence import Counted, Seal, Told
from tests.service import Service

HOUR = 3600
ASKED_WITHIN = 10.0  # seconds in which the stand-in answers
SEALED = "SELECT extract(epoch FROM hour)::bigint FROM seal_progress"
SEALS = """
SELECT replace(tenant_id::text, '-', ''), extract(epoch FROM hour)::bigint / 3600, n, amount_nano::bigint FROM usage_seal
WHERE tenant_id = ANY(%s::uuid[])
"""
TOLD = """
SELECT replace(tenant_id::text, '-', ''), identifier, extract(epoch FROM hour)::bigint / 3600, period_start::text, nano, value,
  state FROM stripe_push WHERE tenant_id = ANY(%s::uuid[])
"""
WAITING = "SELECT count(*) FROM stripe_push WHERE state = 'due'"
UNTOLD = """
SELECT count(*) FROM usage_seal s WHERE tenant_id = ANY(%s::uuid[]) AND amount_nano > 0
AND number > coalesce((SELECT p.number FROM stripe_pushed p WHERE p.tenant_id = s.tenant_id), 0)
"""
COUNTED = "SELECT identifier, at / 3600, value FROM usage"


class Hours:
    """Of a service with the stand-in of Stripe, whose clock moves the platform's."""

    def __init__(self, service: Service) -> None:
        self.service, self.ended_at = service, 0
        environment = service.environment
        self.clock = f"{environment['STRIPE_API_BASE']}/_standin/clock"
        self.secret = {"Authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}"}
        broker = environment["STATE_URL"].replace("unix://", "redis+socket://", 1)
        self.broker = Celery(broker=broker, set_as_current=False)  # tasks of this process go to its own

    def now(self) -> float:
        """The platform's time. Raises requests.RequestException."""
        return float(requests.get(self.clock, headers=self.secret, timeout=ASKED_WITHIN).json()["now"])

    def end_one(self) -> None:
        """Put the clock forward to the next full hour."""
        self.ended_at = int(self.now()) // HOUR * HOUR + HOUR
        moved = requests.post(self.clock, data={"to": self.ended_at + 1}, headers=self.secret, timeout=ASKED_WITHIN)
        assert moved.status_code == 200, moved.text

    def are_sealed(self, *, within: float) -> bool:
        """Wait until the hours that have ended are sealed; whether they are."""
        return _comes(lambda: all(until >= self.ended_at for (until,) in self.service.rows(SEALED)), within)

    def push(self) -> None:
        """What the schedule does twice a minute."""
        self.broker.send_task("billing.tasks.push_usage", queue="ops")

    def are_told(self, organizations: set[str], *, within: float) -> bool:
        """Push until Stripe has all that is sealed; whether it has."""

        def is_told() -> bool:
            if self.service.rows(WAITING) == [(0,)] and self.service.rows(UNTOLD, list(organizations)) == [(0,)]:
                return True
            self.push()
            return False

        return _comes(is_told, within, every=2.0)

    def seals(self, organizations: list[str]) -> list[Seal]:
        return [Seal(*columns) for columns in self.service.rows(SEALS, organizations)]

    def told(self, organizations: list[str]) -> list[Told]:
        return [Told(*columns) for columns in self.service.rows(TOLD, organizations)]

    def counted(self) -> list[Counted]:
        """The meter events in the stand-in's own file."""
        file = sqlite3.connect(f"file:{self.service.data_dir / 'stripe' / 'state.sqlite'}?mode=ro", uri=True)
        try:
            return [Counted(*columns) for columns in file.execute(COUNTED)]
        finally:
            file.close()


def compared(organizations: list[str]) -> None:
    """With the service's settings: print what the reconciliation with Stripe finds; end with status 1 if anything differs."""
    from billing.invoicing.reconcile import reconcile_all  # which needs these settings

    runs = [run for organization in organizations for run in reconcile_all(UUID(organization))]
    for run in runs:
        print(f"{run.verdict}: {run}: ledger {run.ledger}, pushed {run.pushed}, Stripe {run.stripe}, hours {run.hours}")
    sys.exit(not runs or any(run.verdict != "match" for run in runs))


def _comes(is_so: Callable[[], bool], within: float, *, every: float = 0.2) -> bool:
    deadline = time.monotonic() + within
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
