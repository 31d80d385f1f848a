import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.proof.bill import Month
from billing.sale.rerate import Entry, Line, UnusableBook, book_of_versions, models_of, read_book, rerate
from saas.lib.errors import ValidationFailed
from saas.lib.money import text_of
from tenants.models import Organization


class Command(BaseCommand):
    help = "What the calls of a month would have cost under another price book. Changes nothing."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--month", required=True, help="as 2026-11")
        parser.add_argument("--organization", help="its slug; without it, all")
        book = parser.add_mutually_exclusive_group(required=True)
        book.add_argument("--book", type=Path, help="a JSON file; docs/bill.md has its form")
        book.add_argument("--versions", help="versions of the price book, with commas")
        parser.add_argument("--json", action="store_true", help="JSON instead of a table")

    def handle(self, *args: Any, **options: Any) -> None:  # Any: Django's signature
        try:
            month = Month.parse(options["month"])
            lines = rerate(month, _book(options, month), tenant=_tenant(options["organization"]))
        except (UnusableBook, ValidationFailed, OSError) as error:
            raise CommandError(str(error)) from None
        shown = [_shown(line) for line in lines]
        totals = [_total(currency, lines) for currency in sorted({line.currency for line in lines})]
        if options["json"]:
            json.dump({"month": str(month), "models": shown, "totals": totals}, sys.stdout, indent=1)
            self.stdout.write("")
            return
        self._table(shown, totals)

    def _table(self, shown: list[dict[str, Any]], totals: list[dict[str, Any]]) -> None:  # Any: JSON
        rows = [("model", "calls", "charged", "would cost", "difference", "")]
        for each in [*shown, *totals]:
            unpriced = each["calls"] - each["priced"]
            note = f"{unpriced} calls are not priced there: as charged" if unpriced else ""
            amounts = [f"{each[name]} {each['currency']}" for name in ("charged", "anew", "difference")]
            rows.append((each["model"], str(each["calls"]), *amounts, note))
        widths = [max(len(row[place]) for row in rows) for place in range(5)]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:5], widths[1:], strict=True))]
            self.stdout.write("  ".join([*cells, row[5]]).rstrip())


def _book(options: dict[str, Any], month: Month) -> list[Entry]:  # Any: Django's options
    if options["book"]:
        return read_book(options["book"], models_of(month))
    try:
        versions = [int(version) for version in options["versions"].split(",")]
    except ValueError:
        raise UnusableBook("--versions are numbers with commas, as 3,4") from None
    return book_of_versions(versions)


def _tenant(slug: str | None) -> Any:  # Any: an id or None
    if slug is None:
        return None
    found = Organization.objects.using("ops").filter(slug=slug).values_list("id", flat=True).first()
    if found is None:
        raise UnusableBook(f"there is no organization {slug}")
    return found


def _shown(line: Line) -> dict[str, Any]:  # Any: JSON
    return {
        "model": line.model,
        "model_id": line.model_id.hex,
        "currency": line.currency,
        "calls": line.calls,
        "priced": line.priced,
        "charged": text_of(line.charged),
        "anew": text_of(line.anew),
        "difference": text_of(line.anew - line.charged),
    }


def _total(currency: str, lines: list[Line]) -> dict[str, Any]:  # Any: JSON
    mine = [line for line in lines if line.currency == currency]
    charged, anew = sum(line.charged for line in mine), sum(line.anew for line in mine)
    return {
        "model": "all",
        "currency": currency,
        "calls": sum(line.calls for line in mine),
        "priced": sum(line.priced for line in mine),
        "charged": text_of(charged),
        "anew": text_of(anew),
        "difference": text_of(anew - charged),
    }
