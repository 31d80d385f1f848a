"""What a plan costs, includes and limits from when on: added by operators, never changed."""

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, transaction

from billing.models import Plan, PlanVersion
from billing.sale.rating import Tariff, UnusableTariff
from saas.lib import clock
from saas.lib.errors import ValidationFailed
from saas.lib.money import CURRENCIES
from tenants.access import Actor
from tenants.databases import as_operator


def add_version(plan: Plan, *, actor: Actor, reason: str = "", **columns: Any) -> PlanVersion:  # Any: columns
    """The next version of `plan`, for sale from `starts_at` or now on. Who is on an earlier one stays on it.

    As the operator; of two that are added at once each gets a number. Raises ValidationFailed.
    """
    with as_operator(), transaction.atomic(using="ops"):
        version = PlanVersion(plan=plan, actor=str(actor), reason=reason, **columns)
        if "starts_at" not in columns:
            version.starts_at = clock.now()
        add(version)
    return version


def add(version: PlanVersion) -> None:
    """The same of a row whose columns are set. Inside a transaction of the operator."""
    with connections["ops"].cursor() as cursor:  # its number is the next one: until the commit nobody else adds one
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('plan'), hashtext(%s))", [version.plan_id])
    last = PlanVersion.objects.filter(plan=version.plan_id).order_by("-version").first()
    version.version = last.version + 1 if last else 1
    check(version)
    version.save(force_insert=True)


def check(version: PlanVersion) -> None:
    """Raises ValidationFailed, with every field that is wrong."""
    errors = [*_wrong_columns(version)]
    if version.currency not in CURRENCIES:
        errors.append({"field": "currency", "detail": f"One of {', '.join(sorted(CURRENCIES))}."})
    try:
        Tariff.parse(
            currency=version.currency,
            monthly_fee=version.monthly_fee,
            included_amount=version.included_amount,
            tiers=_tiers(version.overage),
        )
    except UnusableTariff as error:
        errors.append({"field": "overage", "detail": f"{error}."})
    if (clock.now() - version.starts_at).total_seconds() > 1:
        errors.append({"field": "starts_at", "detail": "A version starts now or later, not in the past."})
    if version.is_prepaid and version.monthly_fee:
        errors.append({"field": "monthly_fee", "detail": "A prepaid plan has none: nobody is invoiced for it."})
    if errors:
        raise ValidationFailed("This version of the plan cannot be added.", errors=errors)


def _wrong_columns(version: PlanVersion) -> Iterable[dict[str, str]]:
    try:
        version.clean_fields(exclude=["plan", "version", "overage", "actor"])
    except ValidationError as error:
        for field, said in error.message_dict.items():
            yield {"field": field, "detail": " ".join(said)}


def _tiers(overage: Any) -> list[dict[str, Any]]:  # Any: JSON
    """Raises UnusableTariff for what is no list of tiers, each with `up_to` and `rate` and nothing else."""
    if not isinstance(overage, list) or not all(isinstance(tier, dict) for tier in overage):
        raise UnusableTariff('overage must be a list of tiers: [{"up_to": "100.00", "rate": "0.90"}, …]')
    for place, tier in enumerate(overage, 1):
        if set(tier) != {"up_to", "rate"} or not all(isinstance(value, str | None) for value in tier.values()):
            raise UnusableTariff(f"tier {place}: it has up_to (a decimal as text, or null) and rate (a decimal as text)")
    return overage
