"""What of billing waits for an operator, counted: /metrics shows it as `maas_billing_alarms` (inference.gateway.health)."""

from datetime import timedelta

from django.db.models import Q

from billing.invoicing.models import PushState, Settlement, Verdict
from billing.models import Invoice, ReconRun, StripeEvent, StripePush, Subscription
from billing.stripe.states import RUNNING
from inference.gateway.health import BILLING_ALARMS
from saas.lib import clock
from tenants import records
from tenants.databases import as_operator

LATELY = timedelta(hours=2)  # each period is compared every hour, and what is due is told every few minutes
ENDED_WITHIN = timedelta(hours=12)  # the hour of the end is sealed soon after it, and then all is invoiced
FAILURES = 3  # of an event: the third try is some 15 s after the first


def count() -> dict[str, int]:
    """By kind: rows that Stripe refused or may have lost, or that nobody sends; events that fail again and again; plans that
    operators gave and Stripe has not; periods that differ; 1 if nothing was compared lately although somebody has subscribed to
    usage; invoices that stay drafts, or became final with another charge than is due; ended subscriptions whose last usage is
    not invoiced yet.
    """
    now = clock.now()
    is_stuck = Q(settlement__in=[Settlement.MISMATCH, Settlement.UNBILLED]) | Q(
        settlement=Settlement.WAITING, deadline_at__lte=now
    )
    newest = ReconRun.objects.filter(created_at__gt=now - LATELY, created_at__lte=now).order_by(
        "organization_id", "stripe_subscription", "period_start", "-created_at"
    )
    with as_operator():
        runs = newest.distinct("organization_id", "stripe_subscription", "period_start").values_list("verdict", flat=True)
        late = StripePush.objects.filter(state=PushState.DUE, created_at__lte=now - LATELY)
        failing = StripeEvent.objects.filter(processed_at=None, attempts__gte=FAILURES)
        given = Subscription.objects.current().filter(stripe_due_at__isnull=False, stripe_tries__gte=FAILURES)
        metered = Subscription.objects.current().filter(stripe_status__in=RUNNING, since__lte=now - LATELY)
        return {
            "pushes": StripePush.objects.filter(state__in=[PushState.REJECTED, PushState.UNCLEAR]).count(),
            "late_pushes": late.count(),
            "events": failing.count(),
            "given_plans": given.count(),
            "uncompared": int(not runs and metered.exclude(plan_version__overage=[]).exists()),
            "differences": sum(verdict not in (Verdict.MATCH, Verdict.LAG) for verdict in runs),
            "invoices": Invoice.objects.filter(is_stuck).count(),
            "ends": Subscription.objects.filter(closing_at__isnull=False, ended_at__lte=now - ENDED_WITHIN).count(),
        }


def report() -> dict[str, int]:
    """Put the counts where every gateway finds them."""
    counts = count()
    records.client().hset(BILLING_ALARMS, mapping={kind: str(number) for kind, number in counts.items()})
    return counts
