"""What the tests of usage at Stripe are about: an organization, its ledger and seals, and two clocks that go together."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from billing.models import StripePush
from billing.proof.billed import hour_of
from inference.books.scripts import JOURNAL
from saas.lib import clock
from saas.lib.ids import uuid7
from tenants.databases import as_operator

HOUR, MILLISECOND = timedelta(hours=1), timedelta(milliseconds=1)
EVENT = """
INSERT INTO usage_event (day, call_id, seq, tenant_id, api_key_id, model_id, version_id, model_name, version_number, endpoint,
  mode, kind, period, price_version, currency, rows, bytes_in, bytes_out, queue_us, compute_us, amount_nano, is_clamped,
  request_id, opened_at, closed_at, stream_id, batch)
VALUES (%(at)s, %(call)s, 0, %(tenant)s, %(call)s, %(call)s, %(call)s, 'catalog/iris', '1', 'infer', 'live', 'usage',
  %(period)s, 0, 'USD', 1, 1, 1, 1, 1, %(nano)s, false, '', %(at)s, %(at)s, %(stream)s, 0)
"""
SEAL = """
INSERT INTO usage_seal (tenant_id, hour, seq, number, n, amount_nano, merkle_root, prev_seal, key_version, sig, first_call,
  last_call, after_batch, last_batch, sealed_at)
SELECT %(tenant)s, %(hour)s, count(*) FILTER (WHERE hour = %(hour)s), count(*) + 1, 1, %(nano)s, sha256(''), sha256(''), 1,
  sha256('') || sha256(''), %(call)s, %(call)s, 0, 1, now() FROM usage_seal WHERE tenant_id = %(tenant)s
"""
PROGRESS = """
INSERT INTO seal_progress (stream, batch, hour) VALUES (%s, 0, %s)
ON CONFLICT (stream) DO UPDATE SET hour = greatest(seal_progress.hour, excluded.hour)
"""


@dataclass
class World:
    """`tenant`, and what it has subscribed to. Times are ours and the stand-in's alike."""

    tenant: object
    standin: object
    stripe: object
    metering: object
    sealed_nano: dict = field(default_factory=dict)

    def move(self, **by):
        to = clock.now() + timedelta(**by)
        self.move_to(to)

    def move_to(self, moment):
        self.standin.advance_to(moment)
        clock.advance(moment)

    @property
    def this_hour(self):
        return hour_of(clock.now())

    def journal(self, at, nano):
        """A row of the ledger, journaled at that time; its call id."""
        call = uuid7(int(at.timestamp() * 1000)).hex
        self.metering.execute("SELECT ensure_usage_partition(%s)", [at.date()])
        stream = f"{int(at.timestamp() * 1000)}-0"
        values = {"at": at, "call": call, "tenant": str(self.tenant), "nano": nano, "period": f"{at:%Y-%m}", "stream": stream}
        self.metering.execute(EVENT, values)
        return call

    def use(self, at, nano):
        """Usage journaled at that time, and a seal of its hour."""
        call, hour = self.journal(at, nano), hour_of(at)
        self.metering.execute(SEAL, {"tenant": str(self.tenant), "hour": hour, "nano": nano, "call": call})
        self.sealed_nano[hour] = self.sealed_nano.get(hour, 0) + nano

    def sealed_until(self, moment):
        self.metering.execute(PROGRESS, [JOURNAL, moment])

    def rows(self):
        with as_operator():
            return list(StripePush.objects.of(self.tenant).order_by("hour", "seq"))

    def counted(self):
        """The events as the stand-in keeps them: (hour, value)."""
        query = "SELECT at, value FROM usage WHERE customer = ? ORDER BY at, seq"
        found = self.standin.world.store.db.execute(query, (self.stripe.customer,)).fetchall()
        return [(hour_of(datetime.fromtimestamp(at, UTC)), value) for at, value in found]

    def part(self, start=None, end=None):
        """Which part of its month lies between (the subscription's time without)."""
        start, end = start or self.stripe.created_at, end or self.end_of_month
        month = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return Fraction((end - start) // MILLISECOND, ((month + timedelta(days=31)).replace(day=1) - month) // MILLISECOND)

    @property
    def end_of_month(self):
        return (self.stripe.created_at + timedelta(days=31)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    def units_used(self):
        return sum(self.sealed_nano.values()) // 1000

    def events_told(self):
        return [row for row in self.standin.requests() if row["path"] == "/v1/billing/meter_events"]


def killed_after(owner, step, work):
    """Have `work` end as by a kill, once `step` of `owner` has done its part."""
    done = getattr(owner, step)

    def killed(*arguments, **named):
        done(*arguments, **named)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, step, killed)
        with pytest.raises(KeyboardInterrupt):
            work()
