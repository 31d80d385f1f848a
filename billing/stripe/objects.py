"""What we know of Stripe's objects, in our own words: the only form in which they leave billing.stripe_gateway.

Amounts are integers of the currency's minor unit (cents; the yen itself), times are aware and UTC. Each class reads itself from
Stripe's JSON as dictionaries, in the shapes of API version 2026-10-28: period dates are on a subscription's items, an invoice's
subscription is in its parent.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

Json = dict[str, Any]


def moment(seconds: int | None) -> datetime | None:
    """Stripe's whole seconds since 1970 as a time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def reference(value: Any) -> str:
    """The id of an object that may have been expanded, "" for none."""
    return str(value["id"]) if isinstance(value, dict) else str(value or "")


@dataclass(frozen=True)
class Customer:
    id: str
    email: str
    name: str
    is_deleted: bool
    has_card: bool  # a default payment method for invoices
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        settings = json.get("invoice_settings") or {}
        return cls(
            id=json["id"],
            email=json.get("email") or "",
            name=json.get("name") or "",
            is_deleted=bool(json.get("deleted")),
            has_card=bool(settings.get("default_payment_method") or json.get("default_source")),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class Product:
    id: str
    name: str
    is_active: bool
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        return cls(json["id"], json["name"], json["active"], json.get("metadata") or {})


@dataclass(frozen=True)
class Price:
    """`minor` is a price per unit, None with tiers. A metered price has the id of its `meter`."""

    id: str
    product: str
    lookup_key: str
    currency: str
    is_active: bool
    minor: Decimal | None
    meter: str
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        minor = json.get("unit_amount_decimal")
        return cls(
            id=json["id"],
            product=reference(json["product"]),
            lookup_key=json.get("lookup_key") or "",
            currency=json["currency"].upper(),
            is_active=json["active"],
            minor=None if minor is None else Decimal(minor),
            meter=reference((json.get("recurring") or {}).get("meter")),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class Meter:
    id: str
    event_name: str
    display_name: str
    is_active: bool

    @classmethod
    def read(cls, json: Json) -> Self:
        return cls(json["id"], json["event_name"], json["display_name"], json["status"] == "active")


@dataclass(frozen=True)
class Checkout:
    """A checkout session. `payment` is the PaymentIntent of a purchase of credit, `subscription` what a subscription's made."""

    id: str
    url: str
    mode: str  # subscription, payment, setup
    status: str  # open, complete, expired
    is_paid: bool  # or nothing had to be paid
    customer: str
    subscription: str
    payment: str
    amount_minor: int
    currency: str
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        return cls(
            id=json["id"],
            url=json.get("url") or "",
            mode=json["mode"],
            status=json.get("status") or "",
            is_paid=json["payment_status"] in ("paid", "no_payment_required"),
            customer=reference(json.get("customer")),
            subscription=reference(json.get("subscription")),
            payment=reference(json.get("payment_intent")),
            amount_minor=json.get("amount_total") or 0,
            currency=(json.get("currency") or "").upper(),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class PortalConfiguration:
    """What a customer may do in the portal; `features` as Stripe shows them."""

    id: str
    features: Json
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        return cls(json["id"], json["features"], json.get("metadata") or {})


@dataclass(frozen=True)
class Payment:
    """A PaymentIntent."""

    id: str
    is_paid: bool
    amount_minor: int  # received
    currency: str
    customer: str
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        return cls(
            id=json["id"],
            is_paid=json["status"] == "succeeded",
            amount_minor=json.get("amount_received") or 0,
            currency=json["currency"].upper(),
            customer=reference(json.get("customer")),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class SubscriptionItem:
    id: str
    price: str
    product: str
    is_metered: bool
    quantity: int
    created_at: datetime | None
    period_start: datetime | None
    period_end: datetime | None
    metadata: dict[str, str]  # of the price

    @classmethod
    def read(cls, json: Json) -> Self:
        price = json["price"]
        return cls(
            id=json["id"],
            price=reference(price),
            product=reference(price.get("product")),
            is_metered=(price.get("recurring") or {}).get("usage_type") == "metered",
            quantity=json.get("quantity") or 0,
            created_at=moment(json.get("created")),
            period_start=moment(json.get("current_period_start")),
            period_end=moment(json.get("current_period_end")),
            metadata=price.get("metadata") or {},
        )


@dataclass(frozen=True)
class Subscription:
    """`status` is Stripe's own: trialing, active, past_due, unpaid, paused, canceled, incomplete, incomplete_expired."""

    id: str
    customer: str
    status: str
    items: tuple[SubscriptionItem, ...]
    created_at: datetime
    trial_ends_at: datetime | None
    cancels_at: datetime | None
    ended_at: datetime | None
    days_until_due: int | None  # of its invoices, where they are sent; None: they are charged
    latest_invoice: str
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        items = tuple(SubscriptionItem.read(item) for item in json["items"]["data"])
        ends = [item.period_end for item in items if item.period_end is not None]
        at_period_end = max(ends, default=None) if json.get("cancel_at_period_end") else None
        created_at = moment(json["created"])
        assert created_at is not None
        return cls(
            id=json["id"],
            customer=reference(json["customer"]),
            status=json["status"],
            items=items,
            created_at=created_at,
            trial_ends_at=moment(json.get("trial_end")),
            cancels_at=moment(json.get("cancel_at")) or at_period_end,
            ended_at=moment(json.get("ended_at")),
            days_until_due=json.get("days_until_due"),
            latest_invoice=reference(json.get("latest_invoice")),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class InvoiceLine:
    """`units` of `price` between two times. A metered price has one line for each tier that was reached.

    `invoice_item`: the id of the item that was put on the invoice, "" for what the subscription made; `metadata` is the item's.
    """

    id: str
    description: str
    amount_minor: int
    units: int
    price: str
    is_proration: bool
    period_start: datetime | None
    period_end: datetime | None
    invoice_item: str
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        pricing = (json.get("pricing") or {}).get("price_details") or {}
        parent = json.get("parent") or {}
        details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
        return cls(
            id=json["id"],
            description=json.get("description") or "",
            amount_minor=json["amount"],
            units=json.get("quantity") or 0,
            price=reference(pricing.get("price")),
            is_proration=bool(details.get("proration")),
            period_start=moment(json["period"]["start"]),
            period_end=moment(json["period"]["end"]),
            invoice_item=reference((parent.get("invoice_item_details") or {}).get("invoice_item")),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class Invoice:
    """`status` is Stripe's own: draft, open, paid, uncollectible, void."""

    id: str
    number: str
    status: str
    customer: str
    subscription: str
    reason: str  # Stripe's billing_reason: subscription_cycle, subscription_create, manual, …
    currency: str
    total_minor: int
    due_minor: int
    paid_minor: int
    finalizes_by_itself: bool
    attempts: int
    created_at: datetime | None
    period_start: datetime | None
    period_end: datetime | None
    next_attempt_at: datetime | None
    due_at: datetime | None  # of one that is sent, and not charged
    hosted_url: str
    lines: tuple[InvoiceLine, ...]
    metadata: dict[str, str]

    @classmethod
    def read(cls, json: Json) -> Self:
        parent = (json.get("parent") or {}).get("subscription_details") or {}
        return cls(
            id=json.get("id") or "",  # a preview has none
            number=json.get("number") or "",
            status=json.get("status") or "draft",
            customer=reference(json.get("customer")),
            subscription=reference(parent.get("subscription")),
            reason=json.get("billing_reason") or "",
            currency=json["currency"].upper(),
            total_minor=json["total"],
            due_minor=json["amount_due"],
            paid_minor=json.get("amount_paid") or 0,
            finalizes_by_itself=bool(json.get("auto_advance")),
            attempts=json.get("attempt_count") or 0,
            created_at=moment(json.get("created")),
            period_start=moment(json.get("period_start")),
            period_end=moment(json.get("period_end")),
            next_attempt_at=moment(json.get("next_payment_attempt")),
            due_at=moment(json.get("due_date")),
            hosted_url=json.get("hosted_invoice_url") or "",
            lines=tuple(InvoiceLine.read(line) for line in (json.get("lines") or {}).get("data", ())),
            metadata=json.get("metadata") or {},
        )


@dataclass(frozen=True)
class Given:
    """Money given back or off: a credit note or a refund."""

    id: str
    amount_minor: int
    currency: str
    status: str

    @classmethod
    def read(cls, json: Json) -> Self:
        return cls(json["id"], json["amount"], json["currency"].upper(), json.get("status") or "")


@dataclass(frozen=True)
class Event:
    """That something happened to an object. Only the ids count: whoever acts on it fetches the object anew."""

    id: str
    type: str
    created_at: datetime | None
    object_kind: str  # subscription, invoice, checkout.session, …; "" if it names none
    object_id: str
    customer: str
    is_thin: bool

    @classmethod
    def read(cls, json: Json) -> Self:
        if json.get("object") == "v2.core.event":
            about = json.get("related_object") or {}
            created_at = datetime.fromisoformat(json["created"].replace("Z", "+00:00"))
            return cls(json["id"], json["type"], created_at, about.get("type") or "", about.get("id") or "", "", is_thin=True)
        about = json["data"]["object"]
        customer = reference(about.get("id") if about.get("object") == "customer" else about.get("customer"))
        return cls(
            id=json["id"],
            type=json["type"],
            created_at=moment(json["created"]),
            object_kind=about.get("object") or "",
            object_id=str(about.get("id") or ""),
            customer=customer,
            is_thin=False,
        )
