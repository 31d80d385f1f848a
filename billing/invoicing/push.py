"""Usage to Stripe: sealed hours become rows of whole units, and each row a meter event, nothing twice and nothing lost.

`cover` makes the rows: one for each sealed hour that has usage which no row tells yet. A row is never changed: what comes later
is one more row of its hour. `send_due` sends them. That a row is sent is written down before it is: after a kill it is sent
again with the same identifier, which Stripe knows for a day. Later it is not sent any more: Stripe's own sum of the hour says
whether it arrived, or a person does.

Any number of processes may do both at any time: rows of an organization are made under a lock, and sent one at a time, since
Stripe takes one concurrent call for each customer and meter.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import connections, transaction
from django.db.models import F, Max, Sum
from django.db.models.functions import Coalesce

from billing.invoicing import periods
from billing.invoicing.models import PushState, StripePushQuerySet
from billing.invoicing.periods import Period
from billing.invoicing.push_doubt import look_for
from billing.invoicing.push_missing import is_missing
from billing.models import StripePush, StripePushed, UsageSeal
from billing.proof.billed import HOUR, full_hour
from billing.proof.sealer import sealed_until
from billing.sale.rating import METER
from billing.stripe import usage
from billing.stripe_gateway import StripeRefused
from saas.lib import clock
from saas.lib.errors import PaymentsUnavailable
from tenants.databases import as_operator

log = logging.getLogger(__name__)

OLDEST = timedelta(days=35) - HOUR  # Stripe takes no older timestamp
KNOWN_FOR = timedelta(hours=20)  # Stripe knows an identifier for 24 hours at least
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=15)
REFUSALS = (400, 404)  # not 409: another request was at it; nor 401 and 403, which are about our key
LOCKS = 7_302  # the class of our advisory locks, for making rows
SENDING = 7_303  # and for sending them

WAITING = """
SELECT s.tenant_id FROM (
  SELECT DISTINCT tenant_id FROM subscription WHERE stripe_subscription <> '' AND (ended_at IS NULL OR ended_at > %(since)s)
) AS s LEFT JOIN stripe_pushed p USING (tenant_id)
WHERE EXISTS (SELECT FROM usage_seal u WHERE u.tenant_id = s.tenant_id AND u.number > coalesce(p.number, 0))
UNION SELECT tenant_id FROM stripe_push WHERE state = 'due' AND next_try_at <= %(now)s
"""


def push(tenant: UUID) -> int:
    """Tell Stripe all of an organization's sealed usage that it can be told now; how many events were accepted.

    Raises PaymentsUnavailable if Stripe cannot be asked for the subscription: call again.
    """
    now = clock.now()
    with as_operator():
        number = UsageSeal.objects.filter(tenant_id=tenant).aggregate(last=Max("number"))["last"]
    for row in periods.subscriptions_of(tenant):
        for period in periods.periods_of(row, since=now - OLDEST, until=now):
            cover(period)
    with as_operator():
        StripePushed.objects.update_or_create(organization_id=tenant, defaults={"number": number or 0})
    return send_due(tenant)


def waiting() -> list[UUID]:
    """Organizations with seals that nobody has looked at, or with rows to be sent now."""
    now = clock.now()
    with connections["ops"].cursor() as cursor:
        cursor.execute(WAITING, {"since": now - periods.LOOKED_BACK, "now": now})
        return [tenant for (tenant,) in cursor.fetchall()]


def cover(period: Period) -> int:
    """Make the rows for what is sealed of a period and in no row yet; how many."""
    with as_operator(), transaction.atomic(using="ops"):
        _lock(LOCKS, period.tenant)
        rows = StripePush.objects.of(period.tenant).filter(meter=period.meter)
        own = rows.filter(stripe_subscription=period.subscription, period_start=period.start).exclude(state=PushState.REPLACED)
        covered = {hour: int(nano) for hour, nano in own.values_list("hour").annotate(Sum("nano"))}
        totals = own.aggregate(nano=Coalesce(Sum("nano"), 0), value=Coalesce(Sum("value"), 0))
        nano, units, made = int(totals["nano"]), int(totals["value"]), 0
        there = periods.sealed(period)
        for hour in sorted(there.keys() | covered.keys()):
            missing = there.get(hour, 0) - covered.get(hour, 0)
            if missing:
                nano += missing
                _add(period, hour, nano=missing, value=nano // METER - units)
                units, made = nano // METER, made + 1
    return made


def tell_rest(period: Period) -> bool:
    """Tell Stripe what is left of a period; False, and nothing is told, while its last hour is not sealed.

    Raises PaymentsUnavailable.
    """
    with as_operator():
        until = sealed_until()
    if until is None or until < full_hour(period.end):
        return False
    cover(period)
    send_due(period.tenant)
    return True


def told_before(period: Period, moment: datetime) -> int:
    """The units of a period that Stripe has accepted with an earlier timestamp."""
    with as_operator():
        return int(_told_before(period, moment).aggregate(value=Coalesce(Sum("value"), 0))["value"])


def move(period: Period, units: int, *, to: datetime) -> bool:
    """Tell so many units, which Stripe has accepted with earlier timestamps, at `to` instead; False if there are not as many.

    Each hour gets two more rows: one takes back what is told at its time, one tells it anew.
    """
    with as_operator(), transaction.atomic(using="ops"):
        _lock(LOCKS, period.tenant)
        told = _told_before(period, to).values("hour", "told_at").annotate(units=Sum("value")).order_by("-told_at", "-hour")
        left = units
        for each in told:
            taken = max(0, min(left, int(each["units"])))
            if taken:
                _add(period, each["hour"], nano=-taken * METER, value=-taken, told_at=each["told_at"])
                _add(period, each["hour"], nano=taken * METER, value=taken, told_at=to)
                left -= taken
        if left:
            transaction.set_rollback(True, using="ops")
        return left == 0


def _told_before(period: Period, moment: datetime) -> StripePushQuerySet:
    rows: StripePushQuerySet = StripePush.objects.of(period.tenant).filter(
        meter=period.meter, stripe_subscription=period.subscription, period_start=period.start
    )
    return rows.filter(state=PushState.ACCEPTED, told_at__lt=moment)


def _add(period: Period, hour: datetime, *, nano: int, value: int, told_at: datetime | None = None) -> None:
    now = clock.now()
    before = StripePush.objects.of(period.tenant).filter(meter=period.meter, hour=hour).aggregate(last=Max("seq"))["last"]
    seq = 0 if before is None else before + 1
    is_too_old = value != 0 and hour < now - OLDEST
    StripePush.objects.create(
        organization_id=period.tenant,
        created_at=now,
        meter=period.meter,
        hour=hour,
        seq=seq,
        period_start=period.start,
        told_at=told_at or max(hour, period.told_from),  # what came too late for the prices before counts for those of now
        nano=nano,
        value=value,
        stripe_customer=period.customer,
        stripe_subscription=period.subscription,
        identifier=identifier(period.tenant, period.meter, hour, seq),
        state=PushState.REJECTED if is_too_old else PushState.DUE if value else PushState.ACCEPTED,
        accepted_at=None if value else now,
        next_try_at=now,
        error="Stripe takes no usage of more than 35 days ago" if is_too_old else "",
    )
    if is_too_old:
        log.error("usage cannot be told to Stripe any more: organization %s, hour %s, %s units", period.tenant, hour, value)


def identifier(tenant: UUID, meter: str, hour: datetime, seq: int) -> str:
    """What Stripe tells events apart by: the same for the same row, whoever sends it."""
    made = f"mt1:{tenant.hex}:{meter}:{hour.astimezone(UTC):%Y-%m-%dT%H}:{seq}"
    assert len(made) <= 100, made  # Stripe's limit
    return made


def send_due(tenant: UUID) -> int:
    """Send the rows that are due, one after the other; how many Stripe has accepted. 0 if somebody else is at it."""
    accepted = 0
    with as_operator(), _alone(tenant) as is_mine:
        while is_mine and (row := _next_due(tenant)):
            accepted += _deliver(row)
    return accepted


def _next_due(tenant: UUID) -> StripePush | None:
    due = StripePush.objects.of(tenant).filter(state=PushState.DUE, next_try_at__lte=clock.now())
    found: StripePush | None = due.order_by("hour", "seq").first()
    return found


def _deliver(row: StripePush) -> bool:
    """Send one row, and write down what came of it. Nobody else sends for this organization meanwhile."""
    now = clock.now()
    if row.first_sent_at is not None and now - row.first_sent_at >= KNOWN_FOR:
        look_for(row, now)
        row.refresh_from_db()
        return row.state == PushState.ACCEPTED
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(row.attempts, 10))
    is_due = _own(row).filter(state=PushState.DUE)
    if not is_due.update(  # before it is sent: a row without a time was never sent
        first_sent_at=row.first_sent_at or now,
        last_sent_at=now,
        attempts=F("attempts") + 1,
        next_try_at=now + pause,
    ):
        return False  # Stripe has refused it by an event meanwhile
    try:
        is_new = usage.send_meter_event(
            event_name=row.meter,
            customer=row.stripe_customer,
            value=row.value,
            identifier=row.identifier,
            at=row.told_at,
        )
    except (StripeRefused, PaymentsUnavailable) as error:
        _not_accepted(row, error)
        return False
    note = "" if is_new else "had arrived before"
    return bool(_own(row).turn(PushState.ACCEPTED, accepted_at=clock.now(), error=note))


def _not_accepted(row: StripePush, error: StripeRefused | PaymentsUnavailable) -> None:
    """What Stripe refuses is for a person. Of all else it may have arrived, or Stripe was busy: the same again, later."""
    if isinstance(error, StripeRefused) and error.http_status in REFUSALS:
        _own(row).turn(PushState.REJECTED, error=error.detail[:500])
        log.error("Stripe refused usage %s of %s units: %s", row.identifier, row.value, error.detail)
        return
    _own(row).filter(state=PushState.DUE).update(error=error.detail[:500])
    log.warning("Stripe did not say that it took the usage %s: %s", row.identifier, error.detail)


def reject(event: str) -> int:
    """Mark the rows that a thin event of Stripe's names as not counted; how many. The reconciliation finds the others."""
    count = 0
    for name, why in usage.rejected_usage(event).items():
        with as_operator():
            count += StripePush.objects.filter(identifier=name).turn(PushState.REJECTED, error=why[:500])
        log.error("Stripe has not counted the usage %s: %s", name, why)
    return count


def decide(row: StripePush, to: PushState) -> bool:
    """What a person says of a row that waits for one: Stripe has it (ACCEPTED), or has not (REPLACED: it is told anew).

    An accepted row may be told anew if it is surely missing at Stripe. False if it may not be decided so (any more). As the
    operator.
    """
    told = {"accepted_at": clock.now()} if to == PushState.ACCEPTED else {}
    with transaction.atomic(using="ops"):
        _lock(LOCKS, row.organization_id)  # so that no two rows count on the same missing units
        is_decided = _own(row).decide(to, **told)
        if not is_decided and to == PushState.REPLACED:
            row.refresh_from_db(using="ops")
            is_decided = is_missing(row) and _own(row).filter(state=PushState.ACCEPTED).update(state=to)
        if is_decided:
            StripePushed.objects.of(row.organization_id).update(number=0)  # somebody looks for what is in no row now
    return bool(is_decided)


def _own(row: StripePush) -> StripePushQuerySet:
    """The row, as a query of its organization."""
    found: StripePushQuerySet = StripePush.objects.of(row.organization_id).filter(id=row.id)
    return found


@contextmanager
def _alone(tenant: UUID) -> Iterator[bool]:
    """Whether this connection is the only one that sends for the organization. A process that dies lets go of it."""
    with connections["ops"].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [SENDING, str(tenant)])
        [is_mine] = cursor.fetchone() or (False,)
        try:
            yield is_mine
        finally:
            if is_mine:
                cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [SENDING, str(tenant)])


def _lock(kind: int, tenant: UUID) -> None:
    """Until the transaction's end."""
    with connections["ops"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [kind, str(tenant)])
