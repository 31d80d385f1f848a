"""Stripe's events: stored, then worked through. An event says only that something happened; what is so is fetched.

Events come twice, late, in any order, or never. So each is stored under its id before it is acknowledged, each makes us read
the customer's objects anew (billing.stripe.following), and `catch_up` asks for the list of events to find what never came.
"""

import logging
from datetime import timedelta

from django.db import connections
from django.db.models import F, Max
from django.utils import timezone
from kombu.exceptions import OperationalError

from billing import stripe_gateway
from billing.invoicing import push, settling
from billing.models import Subscription
from billing.stripe import customers, invoices, payments
from billing.stripe.following import alone, alone_or_not, follow
from billing.stripe.models import StripeEvent
from billing.stripe.objects import Event
from billing.stripe_gateway import StripeRefused
from saas.lib import clock
from saas.lib.errors import PaymentsUnavailable
from tenants.databases import as_operator

LEASE = timedelta(minutes=2)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)  # after a failure; doubled each time
BATCH = 500
KEPT = timedelta(days=90)
NOT_FOUND = 404
REPORTS = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")
INSERT = """
INSERT INTO stripe_event_inbox (event_id, type, object_kind, object_id, customer, is_thin, created_at, received_at, next_try_at,
  attempts, error) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 0, '') ON CONFLICT (event_id) DO NOTHING
"""

log = logging.getLogger(__name__)


def receive(event: Event) -> bool:
    """Store an event, and tell a worker. False if it was stored before."""
    now = timezone.now()
    about = (event.object_kind, event.object_id, event.customer)
    with connections["ops"].cursor() as cursor:
        cursor.execute(INSERT, [event.id, event.type, *about, event.is_thin, event.created_at, now, now])
        is_new = bool(cursor.rowcount)
    if is_new:
        _tell_worker(event.id)
    return is_new


def hold(event: Event) -> None:
    """Keep a new draft of a customer of ours a draft, while Stripe waits for us.

    Stripe finalizes a subscription's draft an hour after `invoice.created` was taken, or after 72 hours in which it was not
    (docs.stripe.com/api/invoices, …/billing/subscriptions/webhooks). So what is not held is not taken: PaymentsUnavailable.
    """
    if event.type != "invoice.created":
        return
    with as_operator():
        is_ours = bool(event.customer) and Subscription.objects.filter(stripe_customer=event.customer).exists()
    if not is_ours:
        return
    with alone_or_not(event.object_id) as is_mine:
        if not is_mine:
            raise PaymentsUnavailable("Somebody is at this invoice: deliver the event again", retry_after=5)
        try:
            invoices.hold_at_once(event.object_id)
        except StripeRefused as error:
            if error.http_status != NOT_FOUND:
                raise


def _tell_worker(event_id: str) -> None:
    """A broker that is away delays the event until the sweeper's next round."""
    from billing.tasks import process_stripe_event  # which imports this module

    try:
        process_stripe_event.apply_async([event_id], retry=False)
    except OperationalError as error:
        log.warning("an event of Stripe waits for the broker: %s", error)


def process(event_id: str) -> bool:
    """Act on a stored event, unless that was done or another worker is at it. If it fails (False) it is tried again."""
    now = timezone.now()
    with as_operator():
        due = StripeEvent.objects.filter(event_id=event_id, processed_at=None, next_try_at__lte=now)
        if not due.update(next_try_at=now + LEASE, attempts=F("attempts") + 1):
            return False
        row = StripeEvent.objects.get(event_id=event_id)
    try:
        _act(row)
    except Exception as error:  # whatever it is may be over at the next try: it is told, kept and repeated
        log.exception("an event of Stripe could not be worked through: %s %s", row.type, row.event_id)
        pause = min(FIRST_PAUSE * 2 ** min(row.attempts - 1, 20), LONGEST_PAUSE)
        _finish(row, next_try_at=timezone.now() + pause, error=f"{type(error).__name__}: {error}"[:1000])
        return False
    _finish(row, processed_at=timezone.now(), error="")
    return True


def process_due() -> int:
    """Work through what was not worked through in time. How many were done."""
    with as_operator():
        waiting = StripeEvent.objects.filter(processed_at=None, next_try_at__lte=timezone.now()).order_by("next_try_at")
        names = list(waiting.values_list("event_id", flat=True)[:BATCH])
    return sum(process(name) for name in names)


def catch_up(overlap: timedelta) -> int:
    """Ask Stripe for what has happened since `overlap` before the last event that we know, and take what never came.

    How many there were. After a time without us, or of ours without Stripe, that reaches as far back as it lasted.
    """
    now = clock.now()
    with as_operator():
        last = StripeEvent.objects.filter(created_at__lte=now).aggregate(last=Max("created_at"))["last"]
    return sum(receive(event) for event in stripe_gateway.events_since((last or now) - overlap))


def forget() -> int:
    """Remove what was worked through long ago: Stripe lists events of 30 days. How many there were."""
    with as_operator():
        return StripeEvent.objects.filter(processed_at__lt=timezone.now() - KEPT).delete()[0]


def _finish(row: StripeEvent, **fields: object) -> None:
    with as_operator():
        StripeEvent.objects.filter(event_id=row.event_id).update(**fields)


def _act(row: StripeEvent) -> None:
    """What an event leads to; of most kinds nothing."""
    kind = row.type.partition(".")[0]
    if row.type in REPORTS:
        log.error("Stripe has not counted usage that it had taken: %s, event %s", row.type, row.event_id)
        push.reject(row.event_id)
    elif row.type.startswith("checkout.session."):
        _checkout(row.object_id)
    elif row.object_kind in ("refund", "dispute"):
        _taken_back(row.object_kind, row.object_id)
    elif row.object_kind == "invoice" and row.type != "invoice.upcoming":
        with alone(row.object_id):
            settling.heard_of(row.object_id)
        follow(row.customer)
    elif row.type.startswith("customer.subscription.") or (kind == "invoice_payment" and row.customer):
        follow(row.customer)


def _checkout(name: str) -> None:
    """A page was paid, or paid later, or left."""
    checkout = customers.retrieve_checkout(name)
    if checkout.status != "complete":
        return
    if checkout.mode == "subscription":
        follow(checkout.customer)
    elif checkout.mode == "payment" and checkout.payment:
        with alone(checkout.payment):
            payments.grant_credit(invoices.retrieve_payment(checkout.payment))


def _taken_back(kind: str, name: str) -> None:
    """Money of a payment went back, or is about to."""
    if payment := invoices.payment_taken_back(kind, name):
        with alone(payment):
            payments.end_credit(payment, reason=kind)
