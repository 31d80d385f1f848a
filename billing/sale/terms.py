"""What an organization's contract means for its calls, put where gateways meet it: into the record of each of its keys."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

import msgspec

from billing.models import Budget, PriceVersion
from billing.sale.models import current_subscription
from saas.lib import clock
from saas.lib.money import nano_of_decimal
from saas.lib.prices import Price
from tenants import caps, keys
from tenants.models import Organization
from tenants.principal import Terms

KNOWN_AFTER_END = timedelta(minutes=5)
"""How long a price that another has followed is still told: clocks of gateways differ a little."""


def project(organization_id: UUID) -> Terms:
    """Write the terms as they are now, and have them reach all gateways within a second.

    Inside the operator's transaction that changed subscription, state or prices; it locks the organization first, so that of
    two projections the later one has seen what both changed.
    """
    organization = caps.lock(organization_id)
    terms = of(organization_id)
    organization.terms = msgspec.to_builtins(terms)
    organization.save(update_fields=["terms"])
    keys.changed_all(organization_id)
    return terms


def of(organization_id: UUID) -> Terms:
    """The terms by subscription and price book. As the operator."""
    subscription = current_subscription(organization_id)
    version = subscription.plan_version
    overrides: dict[str, list[PriceVersion]] = {}
    for row in PriceVersion.objects.filter(organization_id=organization_id).order_by("starts_at", "version"):
        overrides.setdefault(row.model_id.hex if row.model_id else "", []).append(row)
    return Terms(
        state=subscription.state,
        currency=version.currency,
        plan=version.plan_id,
        is_capped=version.is_prepaid
        or version.included_calls is not None
        or Budget.objects.filter(organization_id=organization_id).exists(),
        overrides={model: in_force_or_to_come(rows) for model, rows in overrides.items()},
    )


def read(organization: Organization) -> Terms:
    """The terms as they were projected, from the organization's row."""
    return msgspec.convert(organization.terms, Terms)


def in_force_or_to_come(rows: Iterable[PriceVersion]) -> list[Price]:
    """`rows`, oldest start first, as gateways know them, without those that have been followed by another."""
    kept: list[PriceVersion] = []
    past = clock.now() - KNOWN_AFTER_END
    for row in rows:
        if row.starts_at <= past:
            kept = [before for before in kept if before.currency != row.currency]
        kept.append(row)
    return [price_of(row) for row in kept]


def price_of(row: PriceVersion) -> Price:
    """A row of the price book as gateways know it."""
    return Price(
        version=row.version,
        starts_ms=int(row.starts_at.timestamp() * 1000),
        currency=row.currency,
        call_nano=nano_of_decimal(row.call_price),
        row_nano=nano_of_decimal(row.row_price),
        second_nano=nano_of_decimal(row.second_price),
    )
