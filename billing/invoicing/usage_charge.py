"""What the usage of a billing period costs, by our ledger; and having the draft of its invoice charge just that.

Stripe's graduated tiers begin anew with each price and know no part of a month. The ledger's rating (billing.sale.segments)
does: what it says is due and what Stripe's lines of usage charge differ where the plan began or changed within the month. The
difference is one item on the draft, which is set again for as long as the draft changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from billing.invoicing.periods import Period
from billing.proof import billed
from billing.sale import rating, segments
from billing.sale.rating import Bill
from billing.sale.segments import Segment
from billing.stripe import invoices, meters
from billing.stripe.objects import Invoice as StripeInvoice
from saas.lib.money import text_of
from tenants.databases import as_operator

MARK = "usage_adjustment"
"""The metadata key by which a draft shows that it has the item already."""
LONGEST_DESCRIPTION = 500


@dataclass(frozen=True)
class Part:
    """What was used on one plan, nano at list prices, and the bill for it."""

    segment: Segment
    usage: int
    bill: Bill

    @property
    def amount(self) -> int:
        """What is charged for it, in the smallest coin. Prepaid plans are charged to credit."""
        return 0 if self.segment.version.is_prepaid else self.bill.usage_total

    def shown(self) -> dict[str, Any]:  # Any: JSON
        version, tariff = self.segment.version, self.segment.tariff
        return {
            "plan": version.plan_id,
            "version": version.version,
            "from": self.segment.start.isoformat(),
            "to": self.segment.end.isoformat(),
            "usage": text_of(self.usage),
            "included": text_of(tariff.included),
            "amount": rating.coins(self.amount, tariff.currency),
        }

    def described(self) -> str:
        tariff = self.segment.tariff
        days = (self.segment.end - self.segment.start).total_seconds() / 86_400
        included = rating.coins(rating.to_coins(tariff.included, tariff.currency), tariff.currency)
        charged = rating.coins(self.amount, tariff.currency)
        return f"{days:.1f} days on {self.segment.version.plan.name}: {included} included, {charged} charged"


def parts_of(period: Period) -> list[Part]:
    """The period by plans, as sealed. Its last part lasts until the period's end."""
    with as_operator():
        found = segments.within(segments.of_month(period.tenant, period.start), period.start, period.end)
        used = [sum(billed.by_hour(period.tenant, each.start, each.end).values()) for each in found]
    return [Part(each, nano, each.bill(nano)) for each, nano in zip(found, used, strict=True)]


def total(parts: Sequence[Part]) -> int:
    """What is due for usage, in the smallest coin, before credit and taxes."""
    return sum(part.amount for part in parts)


def is_known(parts: Sequence[Part]) -> bool:
    """Whether any of these plans has usage invoiced: else lines of usage are by prices that are none of ours."""
    return any(segments.is_invoiced(part.segment.version) for part in parts)


def charged(found: StripeInvoice, period: Period) -> int:
    """What Stripe's own lines charge for usage."""
    meter = meters.meter_id(period.meter)
    return sum(line.amount_minor for line in found.lines if meters.meter_of_price(line.price) == meter)


def adjusted(found: StripeInvoice) -> int:
    """What the item on it adds to that, or takes off."""
    return sum(line.amount_minor for line in found.lines if MARK in line.metadata)


def put_right(found: StripeInvoice, period: Period, parts: Sequence[Part]) -> bool:
    """Have the draft charge what is due; whether it says so now, read anew. Asks Stripe. May be repeated."""
    put_item(found, period, parts, total(parts) - charged(found, period))
    return is_right(invoices.retrieve_invoice(found.id), period, parts)


def put_item(found: StripeInvoice, period: Period, parts: Sequence[Part], amount: int) -> None:
    """Have the one item on a draft amount to so much; without any, 0 needs none."""
    own = [line for line in found.lines if MARK in line.metadata]
    if own and own[0].amount_minor != amount:
        invoices.set_invoice_item(own[0].invoice_item, amount_minor=amount, description=_description(parts))
    if not own and amount:
        invoices.add_invoice_item(
            customer=found.customer,
            invoice=found.id,
            amount_minor=amount,
            currency=found.currency,
            description=_description(parts),
            metadata={MARK: f"{period.start:%Y-%m}"},
            key=f"usage:{found.id}:{amount}",
            period=(period.start, period.end),
        )


def is_right(found: StripeInvoice, period: Period, parts: Sequence[Part]) -> bool:
    return charged(found, period) + adjusted(found) == total(parts)


def _description(parts: Sequence[Part]) -> str:
    """For the customer: why it is more or less than the lines of usage."""
    text = "Usage adjusted to the time on each plan (" + "; ".join(part.described() for part in parts) + ")"
    return text if len(text) <= LONGEST_DESCRIPTION else "Usage adjusted to the time on each plan"
