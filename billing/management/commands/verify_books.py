import sys
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from billing.ledger.verify import FIRST_DAY, differences
from saas.lib import clock


class Command(BaseCommand):
    help = "Compare rows, hours, sums and accounts. Prints each difference; the exit status is 1 if there is any."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, choices=range(1, 3651), metavar="DAYS", help="Only the ledger of so many days.")

    def handle(self, *args: Any, **options: Any) -> None:  # Any: Django's signature
        is_right = True
        days = options.get("days")
        for line in differences(clock.now().date() - timedelta(days=days) if days else FIRST_DAY):
            self.stdout.write(line)
            is_right = False
        if not is_right:
            sys.exit(1)
        self.stdout.write("The books agree.")
