"""A request on its connection: a hot one, from the parser to its answer, and the transport that other ones get."""

from typing import TYPE_CHECKING

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from inference.gateway.exchange import Exchange
from inference.gateway.targets import Target
from saas.lib.addresses import client_of

if TYPE_CHECKING:
    from saas.protocol import FrontProtocol


class _Ignored:
    def set(self) -> None: ...


class HotExchange(Exchange):
    """A hot request. For uvicorn it looks like a RequestResponseCycle."""

    __slots__ = ("chunks", "counted", "disconnected", "is_received", "keep_alive", "protocol", "response_complete", "size")
    message_event = _Ignored()

    def __init__(self, protocol: "FrontProtocol", method: bytes, url: bytes, target: Target, *, keep_alive: bool) -> None:
        super().__init__(method, url, target, protocol.headers)
        self.protocol, self.keep_alive = protocol, keep_alive
        self.chunks: list[bytes] = []
        self.size = self.counted = 0  # bytes received, and those of them in state.body_bytes
        self.response_complete = self.disconnected = self.is_received = False

    def address(self) -> str:
        client = self.protocol.client
        return client_of(client[0] if client else "", self.request_headers, settings.CONFIG.trusted_proxies)

    def send(self, status: int, head: bytes, body: bytes) -> None:
        self.response_complete = True
        self.protocol.answer(self, status, head, body)


class Ending:
    """A transport as uvicorn's cycle uses it, which lingers if the cycle ends before its request's end."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: "FrontProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol, self._cycle = protocol, cycle

    def write(self, data: bytes) -> None:
        self._protocol.unread.written = len(data)
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        if self._cycle.more_body and self._protocol.cycle is self._cycle:
            self._protocol.linger()
        else:
            self._protocol.transport.close()
