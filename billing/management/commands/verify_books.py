import sys
from typing import Any

from django.core.management.base import BaseCommand

from billing.ledger.verify import differences


class Command(BaseCommand):
    help = "Compare rows, hours, sums and accounts. Prints each difference; the exit status is 1 if there is any."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:  # Any: Django's signature
        is_right = True
        for line in differences():
            self.stdout.write(line)
            is_right = False
        if not is_right:
            sys.exit(1)
        self.stdout.write("The books agree.")
