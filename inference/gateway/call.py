"""One call on its way through the gateway, whichever dialect or job it came from."""

from collections.abc import Callable

import msgspec

from inference.books.open_call import OpenCall
from inference.books.record import UsageRecord
from inference.gateway.quotes import Quote
from inference.lanes import Reply, Tensor
from inference.routes import ModelRoute, VersionRoute
from inference.slow import SLOW_US
from saas.lib.errors import AppError
from saas.lib.prices import FREE
from tenants.principal import KeyRecord

Limit = tuple[str, int, int, int, int]
"""(name, quota in requests, window in seconds, remaining requests, seconds until it is full again)"""


class Rendered(msgspec.Struct, array_like=True):
    """An answer as bytes: what is sent, and what is stored for an Idempotency-Key."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Call:
    """What a dialect asks of the gateway, and what became of it.

    `rows` is the leading dimension of the inputs (1 without one), or the number of `items`, which take about
    `prepare_us` to prepare. `timeout` is in seconds.
    `render(call, reply)` makes the answer; it may raise AppError, and then the call fails and costs nothing.
    `done(call, answer)` is called exactly once, with the Rendered answer or the AppError that ended the call.
    """

    __slots__ = (
        "attempts",
        "began",
        "bytes_in",
        "bytes_out",
        "cost_nano",
        "deadline",
        "done",
        "endpoint",
        "fingerprint",
        "frame",
        "has_waited",
        "id",
        "idempotency_key",
        "input_digest",
        "inputs",
        "is_admitted",
        "is_closing",
        "is_ended",
        "is_low",
        "is_open",
        "is_ranked",
        "is_replay",
        "items",
        "key",
        "left",
        "limits",
        "most_nano",
        "number",
        "open_call",
        "opened_ms",
        "output_digest",
        "outputs",
        "places",
        "prepare_us",
        "price",
        "pushed",
        "quote",
        "record",
        "render",
        "reply",
        "request_id",
        "route",
        "rows",
        "timeout",
        "top",
        "version",
    )

    def __init__(
        self,
        *,
        key: KeyRecord,
        route: ModelRoute,
        version: VersionRoute,
        endpoint: str,
        rows: int,
        render: "Callable[[Call, Reply], Rendered]",
        done: "Callable[[Call, Rendered | AppError], None]",
        inputs: list[Tensor] | None = None,
        outputs: tuple[str, ...] = (),
        items: list[bytes | str] | None = None,
        prepare_us: float = 0.0,
        top: int = 0,
        bytes_in: int = 0,
        timeout: float = 30.0,
        request_id: str = "",
        idempotency_key: str | None = None,
        fingerprint: bytes = b"",
        input_digest: str = "",
        is_low: bool = False,
        is_ranked: bool = False,
        quote: Quote | None = None,
    ) -> None:
        self.key, self.route, self.version = key, route, version
        self.endpoint, self.rows, self.render, self.done = endpoint, rows, render, done
        self.inputs, self.outputs, self.items, self.top = inputs, outputs, items, top
        self.prepare_us = prepare_us
        self.bytes_in, self.timeout, self.request_id = bytes_in, timeout, request_id
        self.idempotency_key, self.fingerprint, self.is_low = idempotency_key, fingerprint, is_low
        self.is_ranked = is_ranked  # the answer shows the best of the outputs' elements, with labels
        self.input_digest = input_digest  # SHA-256 of the request's body, if a receipt is wanted
        self.quote = quote  # the price that it was promised
        # filled by the gateway
        self.price = FREE
        self.most_nano = self.cost_nano = 0  # of the price's currency: the most it can cost, and what it did
        self.id = ""
        self.number = 0
        self.opened_ms = 0
        self.began = 0.0  # loop time at submit
        self.deadline = 0.0  # seconds since the epoch
        self.pushed = 0.0  # loop time of the last push, 0 before
        self.attempts = 0  # pushes
        self.places: tuple[str, str, str, str] | None = None  # what it holds at the lanes (inference.gateway.lanes.Places)
        self.frame = b""
        self.open_call: OpenCall | None = None
        self.record: UsageRecord | None = None
        self.has_waited = False  # for its organization's turn
        self.is_open = self.is_admitted = self.is_closing = self.is_ended = self.is_replay = False
        self.reply: Reply | None = None
        self.limits: list[Limit] = []
        self.left: bytes | None = None  # of budgets, credit and included calls, as books.lua told when it opened
        self.bytes_out = 0
        self.output_digest = ""

    @property
    def expected_ms(self) -> float:
        """How long a worker will work on it, as far as one knows before."""
        return self.version.ms_per_row * max(self.rows, 1) + self.prepare_us / 1000

    @property
    def is_slow(self) -> bool:
        """Whether it waits in a slow lane."""
        return self.version.has_slow_lanes and self.expected_ms * 1000 > SLOW_US

    @property
    def takes_slow_place(self) -> bool:
        """Whether it takes a slow place of a worker that all organizations share; own models have processes of their own."""
        return self.route.is_public and self.expected_ms * 1000 > SLOW_US

    @property
    def must_open_first(self) -> bool:
        """A cap or an Idempotency-Key decides whether it may run at all, so the books are asked before the lane."""
        return self.key.is_capped or self.idempotency_key is not None
