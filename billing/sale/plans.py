"""Plans: which version of one is for sale, and how an organization gets onto it."""

from datetime import datetime
from uuid import UUID

import redis
from django.db import connections, transaction
from django.db.models import Sum

from billing.caps import credit
from billing.models import Budget, CreditGrant, PlanVersion, Subscription, UsageMonth
from billing.sale import segments, terms
from billing.sale.models import LIMITS, State, current_subscription
from billing.stripe import selling
from billing.stripe.states import RUNNING
from inference.books import accounts
from saas.lib import clock
from saas.lib.errors import NotFound, StateConflict
from tenants import actions, caps
from tenants.access import Actor
from tenants.databases import as_operator


def for_sale(slug: str, currency: str) -> PlanVersion:
    """The version of a plan that one gets now. Raises NotFound, StateConflict if there is none in that currency."""
    versions = PlanVersion.objects.filter(plan=slug, starts_at__lte=clock.now()).order_by("-starts_at", "-version")
    version = versions.select_related("plan").filter(currency=currency).first()
    if version is None and versions.exists():
        raise StateConflict(f"The plan {slug} is not sold in {currency}, the currency of this organization")
    if version is None:
        raise NotFound(f"There is no plan {slug}")
    return version


def offered(current: Subscription, slug: str) -> PlanVersion:
    """What an organization that is on `current` gets of a plan. Raises NotFound, StateConflict: it is not sold to it."""
    version = for_sale(slug, current.plan_version.currency)
    check_offer(current, version)
    return version


def public(currency: str) -> list[PlanVersion]:
    """What organizations with this currency can choose themselves: of each plan what is for sale now, the cheapest first."""
    versions = PlanVersion.objects.filter(plan__is_public=True, starts_at__lte=clock.now(), currency=currency)
    newest = versions.order_by("plan", "-starts_at", "-version").distinct("plan").select_related("plan")
    return sorted(newest, key=lambda version: (version.monthly_fee, version.id))


def choose(organization_id: UUID, slug: str, *, actor: Actor) -> Subscription:
    """Change the plan as an organization may itself: to a public one, and without money owed on either side.

    What is paid for month by month is subscribed to, changed and ended at Stripe. Raises NotFound, StateConflict.
    """
    return change(organization_id, slug, actor=actor, is_own_choice=True)


def check_choice(current: Subscription, version: PlanVersion) -> None:
    """Raises NotFound or StateConflict unless an organization may go from one to the other by itself."""
    check_offer(current, version)
    if current.stripe_status in RUNNING and version.id != current.plan_version_id:
        raise StateConflict("A subscription has just begun to run at Stripe: choose again")
    if selling.keys_of(version) and version.id != current.plan_version_id:
        raise StateConflict(f"The plan {version.plan_id} is paid for: subscribe to it by POST /api/v1/billing/checkout")


def check_offer(current: Subscription, version: PlanVersion) -> None:
    """Raises NotFound for a plan that is not public, unless an operator has put the organization on it."""
    if not version.plan.is_public and version.plan_id != current.plan_version.plan_id:
        raise NotFound(f"There is no plan {version.plan_id}")


def change(
    organization_id: UUID,
    slug: str,
    *,
    actor: Actor,
    reason: str = "",
    version: PlanVersion | None = None,
    is_own_choice: bool = False,
    at: datetime | None = None,
    begins_anew: bool = False,
) -> Subscription:
    """Put an organization on what is for sale of a plan (or on a given version of it): at once, limits included.

    What an operator gives is then put into force at Stripe (billing.stripe.given).
    Runs as the operator in a transaction of its own, and not inside one that has changed the organization. Of two changes at
    once the later one counts; who is on that version already stays as they are. `is_own_choice`: only what `choose` allows.
    `at`: since when it is charged, in whole seconds, where Stripe charges it from before we heard of it (not before the last
    change: at that very second the plan before charges nothing).
    `begins_anew`: also if it is the same version, for another subscription at Stripe.
    Raises NotFound, StateConflict; Unavailable if a prepaid plan cannot be left because the state server does not answer.
    """
    with as_operator(), transaction.atomic(using="ops"):
        organization = caps.lock(organization_id)  # before the credit's lock, as whoever gives credit
        with connections["ops"].cursor() as cursor:
            credit.settle(cursor, organization_id)  # what was used until now is the old plan's to charge
        current = current_subscription(organization)
        version = version or for_sale(slug, current.plan_version.currency)
        if is_own_choice:
            check_choice(current, version)
        is_given = actor.kind == "operator" and (bool(selling.keys_of(version)) or current.stripe_status in RUNNING)
        if version.id == current.plan_version_id and not begins_anew:
            if is_given:
                current.stripe_due_at = clock.now()
                current.save(update_fields=["stripe_due_at"])
            return current
        check_change(current, version)
        if current.plan_version.is_prepaid and not version.is_prepaid and not segments.is_invoiced(version):
            with connections["ops"].cursor() as cursor:
                credit.charge_ahead(cursor, organization_id)
        now = clock.now()
        if at is not None and current.since.replace(microsecond=0) <= at < now:
            now = max(at, current.since)
        current.ended_at = now
        current.save(update_fields=["ended_at"])
        follower = Subscription.objects.create(
            organization=organization,
            plan_version=version,
            state=current.state,
            since=now,
            anchor=current.anchor,
            credit_base=_credit_base(current, version),
            used_before_nano=_used(organization_id, period=f"{now:%Y-%m}"),
            stripe_customer=current.stripe_customer,
            stripe_subscription=current.stripe_subscription,
            stripe_status=current.stripe_status,
            ends_at=current.ends_at,
            next_plan=current.next_plan,
            stripe_due_at=now if is_given else None,
            unpaid_since=current.unpaid_since,
            told_state=current.told_state,
            actor=str(actor),
            reason=reason,
        )
        limits = {name: value for name in LIMITS if (value := getattr(version, name)) is not None}
        for name, value in limits.items():
            setattr(organization, name, value)
        organization.save(update_fields=list(limits))
        terms.project(organization_id)
        actions.organization_changed(organization, actor=actor, fields=["plan", *sorted(limits)])
    return follower


def check_change(current: Subscription, version: PlanVersion) -> None:
    """Raises StateConflict if the organization cannot get onto `version`: it has amounts in another currency.

    Amounts of budgets and credit are in the organization's currency and name none, so where there are any it stays.
    """
    currency = current.plan_version.currency
    if version.currency == currency:
        return
    if _used_ever(current.organization_id):
        raise StateConflict(f"The organization has been charged in {currency}; its currency cannot be changed any more")
    if CreditGrant.objects.of(current.organization_id).exists():
        raise StateConflict(f"The organization was given credit in {currency}; its currency cannot be changed any more")
    if Budget.objects.of(current.organization_id).exists():
        raise StateConflict(f"The organization has budgets in {currency}: remove them first")


def set_state(organization_id: UUID, state: State, *, actor: Actor, reason: str = "") -> Subscription:
    """Let an organization's calls be served or refused as the state says (tenants.standing). As `change` runs."""
    with as_operator(), transaction.atomic(using="ops"):
        organization = caps.lock(organization_id)
        current = current_subscription(organization)
        if current.state != state:
            current.state = state
            current.save(update_fields=["state"])
            terms.project(organization_id)
            actions.organization_changed(organization, actor=actor, fields=["state"])
    return current


def _credit_base(current: Subscription, version: PlanVersion) -> int | None:
    """What credit is counted from: all that was used until the organization became prepaid is not paid from it."""
    if not version.is_prepaid:
        return None
    return current.credit_base if current.credit_base is not None else _used_ever(current.organization_id)


def _used_ever(organization_id: UUID) -> int:
    """In nano: as the account says, calls under way at their maximum; the ledger's, if the account is not there."""
    try:
        account = accounts.read(organization_id.hex)
    except redis.RedisError:
        account = None
    if account is not None:
        return account.sums.get((accounts.ORGANIZATION, "ever"), (0, 0))[1]
    return _used(organization_id)


def _used(organization_id: UUID, **filters: str) -> int:
    """The same as the ledger has it."""
    months = UsageMonth.objects.filter(tenant_id=organization_id, **filters)
    return int(months.aggregate(used=Sum("amount_nano"))["used"] or 0)
