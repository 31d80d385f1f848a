"""What of billing waits for an operator, counted: /metrics shows it as `maas_billing_alarms` (inference.gateway.health)."""

from datetime import timedelta

from django.db.models import Q

from billing.models import Invoice, ReconRun, StripePush
from billing.push_models import PushState, Settlement, Verdict
from inference.gateway.health import BILLING_ALARMS
from saas.lib import clock
from tenants import records
from tenants.databases import as_operator

LATELY = timedelta(hours=2)  # each period is compared every hour


def count() -> dict[str, int]:
    """By kind: rows that Stripe refused or may have lost, periods that differ, invoices that stay drafts."""
    now = clock.now()
    is_stuck = Q(settlement=Settlement.MISMATCH) | Q(settlement=Settlement.WAITING, deadline_at__lte=now)
    newest = ReconRun.objects.filter(created_at__gt=now - LATELY).order_by(
        "organization_id", "stripe_subscription", "period_start", "-created_at"
    )
    with as_operator():
        runs = newest.distinct("organization_id", "stripe_subscription", "period_start").values_list("verdict", flat=True)
        return {
            "pushes": StripePush.objects.filter(state__in=[PushState.REJECTED, PushState.UNCLEAR]).count(),
            "differences": sum(verdict not in (Verdict.MATCH, Verdict.LAG) for verdict in runs),
            "invoices": Invoice.objects.filter(is_stuck).count(),
        }


def report() -> dict[str, int]:
    """Put the counts where every gateway finds them."""
    counts = count()
    records.client().hset(BILLING_ALARMS, mapping={kind: str(number) for kind, number in counts.items()})
    return counts
