"""Every table of billing, where Django looks for them."""

from billing.caps.models import AlertFired, Budget, CreditGrant, CreditMonth, QuotaChange
from billing.invoicing.models import Invoice, ReconRun, StripePush, StripePushed
from billing.ledger.models import NIL, JournalPosition, JournalQuarantine, UsageEvent, UsageHour, UsageMonth, UsageRollup
from billing.post_models import Post
from billing.proof.models import SealDue, SealProgress, UsageSeal
from billing.sale.models import Plan, PlanVersion, PriceVersion, Subscription
from billing.stripe.models import StripeAttempt, StripeEvent

__all__ = [
    "NIL",
    "AlertFired",
    "Budget",
    "CreditGrant",
    "CreditMonth",
    "Invoice",
    "JournalPosition",
    "JournalQuarantine",
    "Plan",
    "PlanVersion",
    "Post",
    "PriceVersion",
    "QuotaChange",
    "ReconRun",
    "SealDue",
    "SealProgress",
    "StripeAttempt",
    "StripeEvent",
    "StripePush",
    "StripePushed",
    "Subscription",
    "UsageEvent",
    "UsageHour",
    "UsageMonth",
    "UsageRollup",
    "UsageSeal",
]
