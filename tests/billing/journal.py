"""A journal of a test's own, with records as gateways write them."""

import time
from contextlib import closing
from uuid import UUID

import redis

from billing.ledger.drain import Drain
from billing.ledger.hours import catch_up
from billing.ledger.verify import differences
from billing.ledger.writing import connect
from inference.books.record import UsageRecord, pack_record
from saas.lib.ids import uuid7


class Journal:
    def __init__(self, state: redis.Redis, name: str | None = None) -> None:
        self.state = state
        self.name = name or f"journal-{uuid7().hex}"

    def add(self, *records: UsageRecord | bytes, at_ms: int | None = None) -> str:
        """One tick of a gateway, now or at `at_ms`, not before the entry before; the entry's id."""
        packed = [record if isinstance(record, bytes) else pack_record(record) for record in records]
        fields = [part for raw in packed for part in (b"r", raw)]
        return self.state.execute_command("XADD", self.name, "*" if at_ms is None else f"{at_ms}-*", *fields).decode()

    def __len__(self) -> int:
        return self.state.xlen(self.name)


def settle(state: redis.Redis, stream: str) -> None:
    """Move all of `stream` into ledger and hours."""
    drain = Drain(state, stream=stream)
    while drain.step():
        pass
    drain.close()
    with closing(connect()) as connection:
        catch_up(connection, stream)


def differences_of(organization: UUID) -> list[str]:
    """What `verify_books` says of one organization, but not that the amounts of `usage` are made up."""
    return [line for line in differences() if str(organization) in line and not line.startswith("price ")]


def usage(organization: UUID, **given) -> UsageRecord:
    """A record of an answered call of one row, now, at 5 nano; `given` replaces fields."""
    now = int(time.time() * 1000)
    fields = {
        "call": uuid7(given.get("opened_ms", now)).hex,
        "tenant": organization.hex,
        "key": uuid7().hex,
        "model": uuid7().hex,
        "version": uuid7().hex,
        "model_name": "catalog/iris",
        "version_number": "1.0.0",
        "endpoint": "infer",
        "mode": "live",
        "kind": "usage",
        "period": time.strftime("%Y-%m", time.gmtime(now / 1000)),
        "price_version": 0,
        "rows": 1,
        "max_nano": 5,
        "opened_ms": now,
        "request_id": uuid7().hex,
        "closed_ms": now + 3,
        "nano": 5,
        "bytes_in": 100,
        "bytes_out": 50,
        "queue_us": 20,
        "compute_us": 10,
    }
    return UsageRecord(**{**fields, **given})
