from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.stripe import selling
from saas.lib.errors import AppError


class Command(BaseCommand):
    help = "Compare plans with Stripe's products, prices, meters and portal; print what is missing, and with --apply make it."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--apply", action="store_true", help="Do it. Without this nothing is changed.")

    def handle(self, *args: Any, **options: Any) -> None:  # Any: Django's signature
        try:
            steps = selling.steps()
            for step in steps:
                self.stdout.write(f"{'make' if options['apply'] else 'would make'} {step.text}")
                if options["apply"]:
                    step.act()
        except AppError as error:
            raise CommandError(error.detail) from error
        if not steps:
            self.stdout.write("Stripe knows all plans.")
        elif not options["apply"]:
            self.stdout.write("Nothing was changed: add --apply.")
