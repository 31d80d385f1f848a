"""The price book: what a model costs from when on. A price is added, never changed; gateways know it before it starts."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import IntegrityError, transaction

from billing.models import PriceVersion
from billing.sale import terms
from inference import registry
from inference.models import MLModel
from saas.lib import clock
from saas.lib.errors import StateConflict, ValidationFailed
from saas.lib.money import CURRENCIES, MAX_UNITS, NANO, nano_of_decimal
from saas.lib.prices import Price
from tenants import audit
from tenants.access import Actor
from tenants.databases import as_operator
from tenants.models import Organization

LEAD = timedelta(seconds=10)
"""How long before its start a price is written: a gateway's memory is 5 s old at most. A first one needs none."""
COLUMNS = ("call_price", "row_price", "second_price")


def add_price(
    *,
    model: MLModel | None,
    organization: Organization | None = None,
    currency: str = "USD",
    call_price: Decimal = Decimal(0),
    row_price: Decimal = Decimal(0),
    second_price: Decimal = Decimal(0),
    starts_at: datetime | None = None,
    actor: Actor,
    reason: str = "",
) -> PriceVersion:
    """A new price, as the operator. Without `starts_at` it starts as soon as every gateway knows it.

    With an organization it is only that one's; without a model it is that of all the organization's private models.
    Raises ValidationFailed; StateConflict if a price for the same starts at that very time.
    """
    with as_operator(), transaction.atomic(using="ops"):
        if organization is None and model is not None and not model.is_public:
            organization = model.organization  # nobody else sees the model, or need see its price
        price = PriceVersion(
            model_id=model.id if model else None,
            organization_id=organization.id if organization else None,
            name=name_of(model, organization),
            currency=currency,
            call_price=call_price,
            row_price=row_price,
            second_price=second_price,
            actor=str(actor),
            reason=reason,
        )
        price.starts_at = starts_at or earliest_start(price)
        add(price, actor)
    return price


def add(price: PriceVersion, actor: Actor) -> None:
    """The same of a row whose columns are set. Inside a transaction of the operator."""
    check(price)
    try:
        with transaction.atomic(using="ops"):
            price.save(force_insert=True)
    except IntegrityError:
        raise StateConflict("Another price for the same starts at that very time; choose another start") from None
    publish(price, actor)


def check(price: PriceVersion) -> None:
    """Raises ValidationFailed, with every field that is wrong. As the operator."""
    errors = [*_wrong_amounts(price)]
    if price.currency not in CURRENCIES:
        errors.append({"field": "currency", "detail": f"One of {', '.join(sorted(CURRENCIES))}."})
    if price.model_id is None and price.organization_id is None:
        errors.append({"field": "model", "detail": "Say the model, or the organization whose private models it is for."})
    errors += _wrong_model(price)
    first = earliest_start(price)
    if price.starts_at < first - timedelta(seconds=1):
        detail = (
            f"A price starts in the future: at {first:%Y-%m-%dT%H:%M:%SZ} or later, so that every gateway knows it by then."
        )
        errors.append({"field": "starts_at", "detail": detail})
    if errors:
        raise ValidationFailed("This price cannot be added.", errors=errors)


def _wrong_amounts(price: PriceVersion) -> Iterable[dict[str, str]]:
    for name in COLUMNS:
        try:
            if not 0 <= nano_of_decimal(getattr(price, name)) <= MAX_UNITS * NANO:
                yield {"field": name, "detail": f"Between 0 and {MAX_UNITS:,}."}
        except ValueError:
            yield {"field": name, "detail": "A decimal number with at most 9 decimals."}


def _wrong_model(price: PriceVersion) -> Iterable[dict[str, str]]:
    if price.model_id is None:
        return
    model = MLModel.objects.live().filter(id=price.model_id).first()
    if model is None:
        yield {"field": "model", "detail": "There is no such model."}
    elif not model.is_public and model.organization_id != price.organization_id:
        yield {"field": "organization", "detail": "The model is private to another organization."}


def earliest_start(price: PriceVersion) -> datetime:
    """When it can start: at once if there is none yet that it follows, else when every gateway can know it. As the operator."""
    now = clock.now()
    same = PriceVersion.objects.filter(
        model_id=price.model_id, organization_id=price.organization_id, currency=price.currency, starts_at__lte=now
    )
    if price.organization_id is None:
        return now + LEAD if same.exists() else now
    return now + LEAD  # before it everybody's price, or none, is in force


def publish(price: PriceVersion, actor: Actor) -> None:
    """Have a new price reach the gateways. Inside the operator's transaction that added it."""
    if price.organization_id is not None:
        audit.note(price.organization_id, actor, "price.added", price.name, version=price.version)
        terms.project(price.organization_id)
    elif price.model_id is not None:
        registry.model_changed(MLModel.objects.get(id=price.model_id))


def everybodys(models: Collection[UUID]) -> dict[UUID, list[Price]]:
    """By model, what all organizations without a price of their own pay. A reader of inference.price_list."""
    rows = PriceVersion.objects.filter(organization_id=None, model_id__in=models).order_by("starts_at", "version")
    found: dict[UUID, list[PriceVersion]] = {}
    for row in rows:
        assert row.model_id is not None
        found.setdefault(row.model_id, []).append(row)
    return {model: terms.in_force_or_to_come(each) for model, each in found.items()}


def name_of(model: MLModel | None, organization: Organization | None) -> str:
    """Whose price it is, for people."""
    of = "private models"
    if model is not None:
        of = f"catalog/{model.name}" if model.is_public else model.name
    return f"{of} for {organization.slug}"[:130] if organization else of
