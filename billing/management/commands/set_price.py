"""`manage.py set_price catalog/iris --call 0.0001 --reason …`: add a price to the book, as the admin's page does."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from django.core.management.base import BaseCommand, CommandError

from billing.models import PriceVersion
from billing.sale.prices import add_price
from inference.models import MLModel
from saas.lib.errors import AppError
from tenants.access import Actor
from tenants.databases import as_operator
from tenants.models import CATALOG_SLUG, Organization


def amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("not a decimal number") from None


class Command(BaseCommand):
    help = "Add a price: in force at once if it is the model's first one, else from a start in the future on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "model", nargs="?", default="", help="organization/name; without: all private models of --organization."
        )
        parser.add_argument("--call", type=amount, help="Per call.")
        parser.add_argument("--row", type=amount, help="Per row.")
        parser.add_argument("--second", type=amount, help="Per second of computing.")
        parser.add_argument("--currency", default="USD")
        parser.add_argument("--organization", default="", help="Its slug: the price is only its own.")
        parser.add_argument("--starts-at", type=datetime.fromisoformat, help="Like 2027-01-01T00:00:00 (UTC).")
        parser.add_argument("--first", action="store_true", help="Only if the model has no price yet.")
        parser.add_argument("--reason", required=True, help="Why; it is kept.")

    def handle(
        self,
        *,
        model: str,
        call: Decimal | None,
        row: Decimal | None,
        second: Decimal | None,
        starts_at: datetime | None,
        first: bool,
        **options: str,
    ) -> None:
        if call is row is second is None:
            raise CommandError("Say what it costs: --call, --row or --second; what costs nothing is --call 0")
        if not options["reason"].strip():
            raise CommandError("Say why: --reason; it is kept with the price")
        if starts_at is not None and starts_at.tzinfo is None:
            starts_at = starts_at.replace(tzinfo=UTC)
        try:
            with as_operator():
                of = found_model(model) if model else None
                if first and of is not None and PriceVersion.objects.filter(model_id=of.id).exists():
                    self.stdout.write(f"{model} has a price already")
                    return
                price = add_price(
                    model=of,
                    organization=found_organization(options["organization"]) if options["organization"] else None,
                    currency=options["currency"],
                    call_price=call or Decimal(0),
                    row_price=row or Decimal(0),
                    second_price=second or Decimal(0),
                    starts_at=starts_at,
                    actor=Actor("operator"),
                    reason=options["reason"],
                )
        except AppError as error:
            wrong = "".join(f"\n{said['field']}: {said['detail']}" for said in error.errors or ())
            raise CommandError(f"{error.detail}{wrong}") from None
        self.stdout.write(
            self.style.SUCCESS(f"price {price.version}, {price.name}, starts at {price.starts_at:%Y-%m-%dT%H:%M:%SZ}")
        )


def found_model(name: str) -> MLModel:
    """The model by its full name, for operators. Raises CommandError."""
    owner, _, short = name.rpartition("/")
    models = MLModel.objects.live().select_related("organization")
    model: MLModel | None = models.filter(name=short, organization__slug=owner or CATALOG_SLUG).first()
    if model is None:
        raise CommandError(f"There is no model {name}")
    return model


def found_organization(slug: str) -> Organization:
    organization = Organization.objects.filter(slug=slug).first()
    if organization is None:
        raise CommandError(f"There is no organization {slug}")
    return organization
