"""What Stripe has to know of us: a product for each plan, prices for each version, a meter for each currency, the portal.

`steps()` compares and says what is missing; each step may be done twice. A version's prices are never changed, only taken off
the shelf when a later version is for sale: who is on it stays on it. They are back on it while an organization to which an
operator has given that version waits for it. Names are ours, so that nothing of Stripe's is written
down here: product `plan_pro`, lookup key `plan:pro:1:fee` or `…:usage`, meter `spend_usd`, which counts millionths of the
currency unit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from billing.invoicing.periods import meter_of
from billing.models import PlanVersion, Subscription
from billing.sale import rating
from billing.sale.rating import METER, RATE_ONE, Tariff
from billing.sale.segments import tariff_of
from billing.stripe import catalogue, portal
from billing.stripe.objects import Meter, Price, Product
from saas.lib import clock
from tenants.databases import as_operator


@dataclass(frozen=True)
class Step:
    """`text` says what `act()` does at Stripe."""

    text: str
    act: Callable[[], object]


def product_of(plan: str) -> str:
    """Stripe's id of a plan: of our choice."""
    return f"plan_{plan}"


def keys_of(version: PlanVersion) -> dict[str, bool]:
    """The lookup keys of its prices, each with whether it is metered; {} if it costs nothing whatever is used."""
    tariff, name = tariff_of(version), f"plan:{version.plan_id}:{version.version}"
    keys = {f"{name}:fee": False} if tariff.fee else {}
    if any(tier.rate for tier in tariff.tiers):
        keys[f"{name}:usage"] = True
    return keys if not version.is_prepaid else {}


def steps() -> list[Step]:
    """What has to be done at Stripe, in order; [] if it knows all. Asks Stripe, and changes nothing."""
    with as_operator():
        versions = list(PlanVersion.objects.select_related("plan").order_by("plan", "version"))
        given = Subscription.objects.current().filter(stripe_due_at__isnull=False)
        awaited = set(given.values_list("plan_version_id", flat=True))
    sold = [version for version in versions if keys_of(version)]
    meters = {meter.event_name: meter for meter in catalogue.meters() if meter.is_active}
    products = {product.id: product for product in catalogue.products()}
    prices = {price.lookup_key: price for price in catalogue.prices() if price.lookup_key}
    followed = [version for version in _followed(sold) if version.id not in awaited]
    offered = [version for version in sold if version not in followed]  # nobody needs prices of the others
    made = [*_meters(sold, meters), *_products(sold, products), *_prices(offered, prices), *_outdated(followed, prices)]
    return [*made, *_portal()]


def apply() -> int:
    """Do all of it. How many steps there were."""
    wanted = steps()
    for step in wanted:
        step.act()
    return len(wanted)


def _meters(sold: Iterable[PlanVersion], known: dict[str, Meter]) -> Iterator[Step]:
    for currency in sorted({version.currency for version in sold}):
        name = meter_of(currency)
        if name not in known:
            text = f"Usage in millionths of {currency}"
            yield Step(f"meter {name}", partial(catalogue.create_meter, event_name=name, display_name=text))


def _products(sold: Iterable[PlanVersion], known: dict[str, Product]) -> Iterator[Step]:
    for plan in {version.plan_id: version.plan for version in sold}.values():
        name, metadata = product_of(plan.slug), {"plan": plan.slug}
        there = known.get(name)
        if there is None:
            yield Step(f"product {name}", partial(catalogue.create_product, id=name, name=plan.name, metadata=metadata))
        elif (there.name, there.is_active) != (plan.name, True):
            update = partial(catalogue.update_product, name, name=plan.name, is_active=True, metadata=metadata)
            yield Step(f"product {name}: it is called {plan.name}, and for sale", update)


def _prices(sold: Iterable[PlanVersion], known: dict[str, Price]) -> Iterator[Step]:
    for version in sold:
        tariff = tariff_of(version)
        for key, is_metered in keys_of(version).items():
            if key in known:
                if not known[key].is_active:
                    yield Step(f"price {key}: for sale again", partial(catalogue.activate_price, known[key].id))
                continue
            common = {"product": product_of(version.plan_id), "lookup_key": key, "currency": version.currency}
            metadata = {"plan": version.plan_id, "version": str(version.version)}
            if is_metered:
                yield Step(f"price {key}: {_told(tariff)}", partial(_create_usage_price, common, metadata, tariff))
            else:
                minor = Decimal(rating.to_coins(tariff.fee, version.currency))
                fee = f"{rating.coins(int(minor), version.currency)} {version.currency} a month"
                create = partial(catalogue.create_price, **common, minor=minor, metadata=metadata)
                yield Step(f"price {key}: {fee}", create)


def _followed(sold: Sequence[PlanVersion]) -> list[PlanVersion]:
    """Versions that a later one has followed."""
    begun = [version for version in sold if version.starts_at <= clock.now()]
    latest: dict[tuple[str, str], PlanVersion] = {}
    for version in sorted(begun, key=lambda version: (version.starts_at, version.version)):
        latest[version.plan_id, version.currency] = version
    return [version for version in begun if version is not latest[version.plan_id, version.currency]]


def _outdated(followed: Iterable[PlanVersion], known: dict[str, Price]) -> Iterator[Step]:
    for version in followed:
        for key in keys_of(version):
            if key in known and known[key].is_active:
                yield Step(f"price {key}: no longer for sale", partial(catalogue.deactivate_price, known[key].id))


def _portal() -> Iterator[Step]:
    found = portal.find()
    if found is None:
        yield Step(f"portal: {portal.TOLD}", portal.create)
    elif not portal.is_right(found):
        yield Step(f"portal: again only {portal.TOLD}", partial(portal.update, found.id))


def _create_usage_price(common: dict[str, str], metadata: dict[str, str], tariff: Tariff) -> Price:
    """The meter may just have been made: its id is asked for now."""
    meter = next(meter.id for meter in catalogue.meters() if meter.event_name == meter_of(tariff.currency))
    return catalogue.create_metered_price(**common, meter=meter, tiers=tiers_of(tariff), metadata=metadata)


def tiers_of(tariff: Tariff) -> list[tuple[int | None, Decimal]]:
    """The tariff as graduated tiers of the money meter: up to how many units, and minor units of the currency for each."""
    included = tariff.included // METER
    each = Decimal(10 ** rating.exponent(tariff.currency)) / 10**6  # of a millionth of the currency unit
    tiers: list[tuple[int | None, Decimal]] = [(included, Decimal(0))] if included else []
    for tier in tariff.tiers:
        end = None if tier.up_to is None else included + tier.up_to // METER
        tiers.append((end, each * tier.rate / RATE_ONE))
    return tiers


def _told(tariff: Tariff) -> str:
    shown = [
        f"{rating.coins(rating.to_coins(tariff.included, tariff.currency), tariff.currency)} {tariff.currency} included, then"
    ]
    return " ".join([*(shown if tariff.included else []), *(f"× {Decimal(tier.rate) / RATE_ONE:f}" for tier in tariff.tiers)])
