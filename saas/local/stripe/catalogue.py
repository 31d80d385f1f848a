"""Products, prices and meters."""

from decimal import Decimal, InvalidOperation
from typing import Any

from saas.local.stripe.refusals import Refusal, invalid, required
from saas.local.stripe.routes import route
from saas.local.stripe.store import Json, page
from saas.local.stripe.world import World

FORMULAS = ("sum", "count", "last")


def is_true(value: Any) -> bool:
    return value in (True, "true")


def need(params: Json, *names: str) -> None:
    """Refuse a request that lacks one of these."""
    for name in names:
        if params.get(name) in (None, ""):
            raise required(name)


@route("POST", "/v1/products")
def create_product(world: World, params: Json) -> Json:
    need(params, "name")
    if params.get("id") and world.store.has(params["id"]):
        raise Refusal(400, f"Product already exists: {params['id']}", code="resource_already_exists", param="id")
    body = {"name": params["name"], "active": True, "created": world.now(), "metadata": params.get("metadata") or {}}
    body |= {"description": params.get("description"), "updated": world.now(), "images": [], "type": "service"}
    product = world.store.add("product", "prod", body, id=params.get("id", ""))
    world.emit("product.created", product)
    return product


@route("GET", "/v1/products")
def list_products(world: World, params: Json) -> Json:
    return page(world.store.all("product", **_active(params)), params, "/v1/products")


@route("GET", "/v1/products/{id}")
def retrieve_product(world: World, params: Json, id: str) -> Json:
    return world.store.get("product", id)


@route("POST", "/v1/products/{id}")
def update_product(world: World, params: Json, id: str) -> Json:
    product = world.store.get("product", id)
    fields: Json = {name: params[name] for name in ("name", "description") if name in params}
    if "active" in params:
        fields["active"] = is_true(params["active"])
    fields["metadata"] = merged(product["metadata"], params.get("metadata"))
    return world.change(product, "product.updated", **fields)


@route("POST", "/v1/prices")
def create_price(world: World, params: Json) -> Json:
    need(params, "currency", "product")
    if params.get("lookup_key") and world.store.all("price", lookup_key=params["lookup_key"]):
        raise Refusal(400, f"A price with the lookup key {params['lookup_key']} already exists", param="lookup_key")
    price = world.store.add("price", "price", price_body(world, params))
    world.emit("price.created", price)
    return price


def price_body(world: World, params: Json) -> Json:
    """A price as Stripe shows it, from the parameters of its creation. Raises Refusal for what contradicts itself."""
    world.store.get("product", params["product"])
    recurring = _recurring(world, params.get("recurring"))
    is_tiered = params.get("billing_scheme") == "tiered"
    body: Json = {
        "active": True,
        "billing_scheme": "tiered" if is_tiered else "per_unit",
        "created": world.now(),
        "currency": params["currency"],
        "lookup_key": params.get("lookup_key"),
        "metadata": params.get("metadata") or {},
        "nickname": params.get("nickname"),
        "product": params["product"],
        "recurring": recurring,
        "type": "recurring" if recurring else "one_time",
        "unit_amount": None,
        "unit_amount_decimal": None,
    }
    if is_tiered:
        if "unit_amount" in params or "unit_amount_decimal" in params:
            raise invalid("unit_amount", "A tiered price takes its amounts from its tiers")
        return body | {"tiers_mode": params.get("tiers_mode"), "tiers": _tiers(params)}
    amount = decimal(params.get("unit_amount_decimal", params.get("unit_amount")), "unit_amount_decimal")
    return body | {"unit_amount_decimal": str(amount), "unit_amount": int(amount) if amount == int(amount) else None}


@route("GET", "/v1/prices")
def list_prices(world: World, params: Json) -> Json:
    prices = world.store.all("price", **_active(params), **({"product": params["product"]} if "product" in params else {}))
    keys = params.get("lookup_keys")
    shown = [_without_tiers(price) for price in prices if not keys or price["lookup_key"] in keys]
    return page(shown, params, "/v1/prices")


@route("GET", "/v1/prices/{id}")
def retrieve_price(world: World, params: Json, id: str) -> Json:
    return _without_tiers(world.store.get("price", id))


@route("POST", "/v1/prices/{id}")
def update_price(world: World, params: Json, id: str) -> Json:
    """All but its amounts, which never change."""
    price = world.store.get("price", id)
    fields: Json = {name: params[name] for name in ("nickname", "lookup_key") if name in params}
    if "active" in params:
        fields["active"] = is_true(params["active"])
    fields["metadata"] = merged(price["metadata"], params.get("metadata"))
    return _without_tiers(world.change(price, "price.updated", **fields))


@route("POST", "/v1/billing/meters")
def create_meter(world: World, params: Json) -> Json:
    need(params, "display_name", "event_name", "default_aggregation")
    formula = params["default_aggregation"].get("formula")
    if formula not in FORMULAS:
        raise invalid("default_aggregation[formula]", f"Invalid default_aggregation[formula]: must be one of {FORMULAS}")
    if world.store.all("billing.meter", event_name=params["event_name"], status="active"):
        raise Refusal(400, f"There is already an active meter with the event name {params['event_name']}", param="event_name")
    body = {
        "created": world.now(),
        "customer_mapping": params.get("customer_mapping") or {"type": "by_id", "event_payload_key": "stripe_customer_id"},
        "default_aggregation": {"formula": formula},
        "display_name": params["display_name"],
        "event_name": params["event_name"],
        "event_time_window": None,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": world.now(),
        "value_settings": params.get("value_settings") or {"event_payload_key": "value"},
    }
    meter = world.store.add("billing.meter", "mtr", body)
    world.emit("billing.meter.created", meter)
    return meter


@route("GET", "/v1/billing/meters")
def list_meters(world: World, params: Json) -> Json:
    wanted = {"status": params["status"]} if "status" in params else {}
    return page(world.store.all("billing.meter", **wanted), params, "/v1/billing/meters")


@route("GET", "/v1/billing/meters/{id}")
def retrieve_meter(world: World, params: Json, id: str) -> Json:
    return world.store.get("billing.meter", id)


@route("POST", "/v1/billing/meters/{id}")
def update_meter(world: World, params: Json, id: str) -> Json:
    meter = world.store.get("billing.meter", id)
    return world.change(meter, "billing.meter.updated", display_name=params.get("display_name", meter["display_name"]))


@route("POST", "/v1/billing/meters/{id}/deactivate")
def deactivate_meter(world: World, params: Json, id: str) -> Json:
    meter = world.store.get("billing.meter", id)
    return world.change(meter, "billing.meter.deactivated", status="inactive")


@route("POST", "/v1/billing/meters/{id}/reactivate")
def reactivate_meter(world: World, params: Json, id: str) -> Json:
    meter = world.store.get("billing.meter", id)
    return world.change(meter, "billing.meter.reactivated", status="active")


def merged(old: Json, new: Json | None) -> Json:
    """Metadata after an update: an empty text deletes its key."""
    return {key: value for key, value in (old | (new or {})).items() if value != ""}


def decimal(text: Any, name: str) -> Decimal:
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        raise required(name) if text is None else invalid(name, f"Invalid decimal: {text}") from None
    if not amount.is_finite() or "e" in str(text).lower() or len(str(text).partition(".")[2]) > 12:
        raise invalid(name, f"Invalid decimal: {text}; at most 12 decimal places")
    return amount


def _recurring(world: World, params: Json | None) -> Json | None:
    if not params:
        return None
    usage_type = params.get("usage_type", "licensed")
    meter = params.get("meter")
    if usage_type == "metered":
        if not meter:
            raise invalid("recurring[meter]", "A metered price needs a meter: usage records are no more")
        world.store.get("billing.meter", meter)
    need(params, "interval")
    return {
        "interval": params["interval"],
        "interval_count": int(params.get("interval_count", 1)),
        "meter": meter,
        "trial_period_days": None,
        "usage_type": usage_type,
    }


def _tiers(params: Json) -> list[Json]:
    """Tiers with rising ends, the last one without."""
    tiers, last = params.get("tiers") or [], 0
    if params.get("tiers_mode") not in ("graduated", "volume") or not tiers or tiers[-1].get("up_to") != "inf":
        raise invalid("tiers", "A tiered price needs tiers_mode and tiers, the last one up to inf")
    made = []
    for tier in tiers:
        end = None if tier["up_to"] == "inf" else int(tier["up_to"])
        if end is not None and end <= last:
            raise invalid("tiers", "Each tier must end above the one before")
        last = end or last
        unit, flat = tier.get("unit_amount_decimal", tier.get("unit_amount")), tier.get("flat_amount_decimal")
        flat = flat if flat is not None else tier.get("flat_amount")
        made.append(
            {
                "up_to": end,
                "unit_amount_decimal": None if unit is None else str(decimal(unit, "tiers")),
                "flat_amount_decimal": None if flat is None else str(decimal(flat, "tiers")),
            }
        )
    return made


def _without_tiers(price: Json) -> Json:
    """Stripe shows tiers only to who expands them, which we never do."""
    return {key: value for key, value in price.items() if key != "tiers"}


def _active(params: Json) -> Json:
    return {"active": is_true(params["active"])} if "active" in params else {}
