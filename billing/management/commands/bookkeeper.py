import signal
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from billing.bookkeeper import Bookkeeper


class Command(BaseCommand):
    help = "Drain the journal, reap dead sessions, rebuild accounts, project quotas and records. Any number may run."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:  # Any: Django's signature
        bookkeeper = Bookkeeper(settings.CONFIG.state_url, settings.CONFIG.lanes_url)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: bookkeeper.stop())
        sys.exit(bookkeeper.run())
