"""Products, prices and meters at Stripe (manage.py stripe_sync)."""

from collections.abc import Sequence
from decimal import Decimal

from billing.stripe.objects import Meter, Price, Product
from billing.stripe_gateway import ask, client, every


def products() -> list[Product]:
    return [Product.read(json) for json in every(client().v1.products.list, params={})]


def create_product(*, id: str, name: str, metadata: dict[str, str]) -> Product:
    params = {"id": id, "name": name, "metadata": metadata}
    return Product.read(ask(client().v1.products.create, params=params))


def update_product(product: str, *, name: str, is_active: bool, metadata: dict[str, str]) -> Product:
    params = {"name": name, "active": is_active, "metadata": metadata}
    return Product.read(ask(client().v1.products.update, product, params=params))


def prices() -> list[Price]:
    return [Price.read(json) for json in every(client().v1.prices.list, params={})]


def prices_by_key(lookup_keys: Sequence[str]) -> dict[str, Price]:
    """The active prices that have these lookup keys, ten at most."""
    params = {"lookup_keys": list(lookup_keys), "active": True}
    found = [Price.read(json) for json in every(client().v1.prices.list, params=params)]
    return {price.lookup_key: price for price in found}


def create_price(*, product: str, lookup_key: str, currency: str, minor: Decimal, metadata: dict[str, str]) -> Price:
    """A monthly fee of `minor` units."""
    params = {
        "product": product,
        "currency": currency.lower(),
        "unit_amount_decimal": plain(minor),
        "recurring": {"interval": "month", "usage_type": "licensed"},
        "lookup_key": lookup_key,
        "metadata": metadata,
    }
    return Price.read(ask(client().v1.prices.create, params=params))


def create_metered_price(
    *,
    product: str,
    lookup_key: str,
    currency: str,
    meter: str,
    tiers: Sequence[tuple[int | None, Decimal]],
    metadata: dict[str, str],
) -> Price:
    """A price for what `meter` counts in a month: graduated `tiers` of (up to how many, None: no end; minor units for each)."""
    params = {
        "product": product,
        "currency": currency.lower(),
        "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
        "billing_scheme": "tiered",
        "tiers_mode": "graduated",
        "tiers": [{"up_to": "inf" if end is None else end, "unit_amount_decimal": plain(minor)} for end, minor in tiers],
        "lookup_key": lookup_key,
        "metadata": metadata,
    }
    return Price.read(ask(client().v1.prices.create, params=params))


def deactivate_price(price: str) -> Price:
    return Price.read(ask(client().v1.prices.update, price, params={"active": False}))


def activate_price(price: str) -> Price:
    return Price.read(ask(client().v1.prices.update, price, params={"active": True}))


def meters() -> list[Meter]:
    return [Meter.read(json) for json in every(client().v1.billing.meters.list, params={})]


def create_meter(*, event_name: str, display_name: str) -> Meter:
    """A meter that adds up whole numbers."""
    params = {
        "event_name": event_name,
        "display_name": display_name,
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
        "value_settings": {"event_payload_key": "value"},
    }
    return Meter.read(ask(client().v1.billing.meters.create, params=params))


def plain(amount: Decimal) -> str:
    """`amount` without an exponent, which Stripe does not read: the SDK would send Decimal("0.0000001") as 1E-7."""
    return format(amount.normalize(), "f")
