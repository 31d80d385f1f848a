"""Statements of calls from the ledger's rows: what receipts sign and seals are made of (inference.books.statement)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from inference.books.statement import statement

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = (
    "call_id, tenant_id, api_key_id, model_id, version_id, mode, kind, price_version, currency, rows, compute_us, amount_nano, "
    "opened_at, closed_at, digests, is_clamped, model_name"
)
"""What `of_row` takes, in order, ids as text. (The name is not stated: a model may be renamed.)"""
SELECTED = COLUMNS
for _name in ("call_id", "tenant_id", "api_key_id", "model_id", "version_id"):
    SELECTED = SELECTED.replace(_name, f"replace({_name}::text, '-', '')")


def of_row(row: tuple[Any, ...]) -> bytes:  # Any: a row of SELECTED
    """The statement of a ledger row."""
    call, tenant, key, model, version, mode, kind, price, currency, rows, compute_us, amount, opened, closed, *rest = row
    digests, is_clamped, _ = rest
    return statement(
        call=call,
        tenant=tenant,
        key=key,
        model=model,
        version=version,
        mode=mode,
        kind=kind,
        price_version=price,
        currency=currency,
        rows=rows,
        compute_us=compute_us,
        amount_nano=amount,
        opened_ms=milliseconds(opened),
        closed_ms=milliseconds(closed),
        digests=digests,
        is_clamped=is_clamped,
    )


def milliseconds(moment: datetime) -> int:
    """Since the epoch; the ledger's times are whole ones."""
    return (moment - EPOCH) // timedelta(milliseconds=1)
