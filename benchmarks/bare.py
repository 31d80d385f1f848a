"""The gateway without what the platform is for: the yardstick of what that costs. `gunicorn … benchmarks.bare:application`.

The same protocol, decoding, lane, worker and rendering; but the first key that is found right stands for all later ones,
nothing is opened or closed in the books, no rate or number of places is looked at, and requests are neither counted nor
logged. It runs beside a service, on its servers and workers. It lies here and not in the service, so that no setting of a
service can do this.
"""

from typing import Any

from saas import asgi  # before the others: it sets up Django

# isort: split
from django.conf import settings

from inference.gateway import stored
from inference.gateway.access import Access
from inference.gateway.call import Call, Rendered
from inference.gateway.exchange import Exchange
from inference.gateway.front import Front
from inference.gateway.health import Health
from inference.gateway.lanes import Admitted, Lanes
from inference.gateway.line import Gateway
from saas.lib import garbage
from tenants.principal import KeyRecord


class BareAccess(Access):
    anybody: KeyRecord | None = None

    def principal(self, presented: str) -> KeyRecord | None:
        if self.anybody is None:
            self.anybody = super().principal(presented)
        return self.anybody

    def is_current(self, record: KeyRecord) -> bool:
        return True


class BareLanes(Lanes):
    """Pushes with the same script, which knows calls without limits: those of asynchronous predictions."""

    def _describe(self, calls: list[Call], keys: list[str], arguments: list[Any], now: float) -> None:
        is_limited = len(arguments) + 1  # admit.lua: n, is_limited, …
        super()._describe(calls, keys, arguments, now)
        arguments[is_limited] = 0

    def release(self, call: Call) -> None:
        """It holds no place."""


class BareGateway(Gateway):
    def __init__(self, **options: Any) -> None:  # Any: the same
        super().__init__(**options)
        self.lanes.__class__ = BareLanes  # the same object: what is connected to it stays
        self.access = BareAccess(self.records)

    def _open(self, call: Call) -> None:
        call.is_open = True

    def _on_admitted(self, calls: list[Call], admitted: Admitted) -> None:
        count, reason, _, _, wait = admitted
        for index, call in enumerate(calls):
            if index >= count:
                self._refuse(call, reason, wait)
            else:
                call.is_admitted = True

    def _close(self, call: Call, answer: Rendered) -> None:
        self.running.end(call, answer)


class BareFront(Front):
    def _note(self, exchange: Exchange, status: int, code: str, bytes_out: int) -> None:
        """Neither counters nor a line."""


class BareApplication(asgi.Application):
    async def _start(self) -> Front:
        config = self._config
        self._gateway = BareGateway(
            state_url=config.state_url, lanes_url=config.lanes_url, lane_max_ms=config.lane_max_ms, stored=stored.Answers()
        )
        await self._gateway.start()
        self._front = BareFront(self._gateway, list_routes=asgi.list_routes, is_ready=self._is_ready)
        self._health = Health(self._gateway.books, self._gateway.lanes, self._front.metrics)
        garbage.settle()
        return self._front


application = BareApplication(settings.CONFIG)
