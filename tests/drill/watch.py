"""Looks at accounts all through a drill: what they held at their highest."""

import threading

import redis

from tests.drill.evidence import Sums
from tests.drill.gather import account
from tests.service import Service

EVERY = 0.1  # seconds between two looks


class Watch(threading.Thread):
    """From `start()` until `stop()`. `peaks`: of each organization the highest sums that were seen; `looks`: how often."""

    def __init__(self, service: Service, organizations: set[str]) -> None:
        super().__init__(name="watch", daemon=True)
        self.service, self.peaks, self.looks = service, dict[str, Sums](), 0
        self.organizations = sorted(organizations)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                for organization in self.organizations:
                    self._look(organization)
            except redis.RedisError:
                continue  # the state server is what the drill has struck just now
            self.looks += 1

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look(self, organization: str) -> None:
        highest = self.peaks.setdefault(organization, {})
        for scope, (calls, nano) in account(self.service, organization).items():
            most_calls, most_nano = highest.get(scope, (0, 0))
            highest[scope] = max(calls, most_calls), max(nano, most_nano)
