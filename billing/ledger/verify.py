"""Whether the books agree: rows = sums, rows = hours as far as rolled up, each account = ledger + journal + open calls.

And whether each amount is what the price book makes of the row's units, and grants have paid what months were charged.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from uuid import UUID

from psycopg2.extensions import connection as Connection

from billing.ledger.rebuild import read_snapshot
from billing.ledger.writing import connect
from inference.books import accounts

ATTEMPTS = 20  # an account cannot be told while the drain trims past the snapshot
MOST_RECORDS = 1_000_000
FIRST_DAY = date(2000, 1, 1)  # before all ledgers

# What the rows say that hours or sums must hold, against what they do hold. Only where they differ.
HOURS = """
WITH rows AS (
  SELECT tenant_id, date_trunc('hour', opened_at, 'UTC') AS hour, api_key_id, model_id, version_id, mode, currency,
    count(*) FILTER (WHERE kind = 'usage') AS calls, count(*) FILTER (WHERE kind = 'reversed') AS reversed,
    coalesce(sum(rows) FILTER (WHERE kind = 'usage'), 0) AS rows,
    coalesce(sum(bytes_in) FILTER (WHERE kind = 'usage'), 0) AS bytes_in,
    coalesce(sum(bytes_out) FILTER (WHERE kind = 'usage'), 0) AS bytes_out,
    coalesce(sum(amount_nano), 0) AS amount_nano
  FROM usage_event LEFT JOIN usage_rollup u ON u.batch >> 40 = usage_event.batch >> 40
  WHERE day >= %(since)s::date - 1 AND opened_at >= %(since)s::date
  AND (usage_event.batch = 0 OR usage_event.batch <= u.batch) GROUP BY 1, 2, 3, 4, 5, 6, 7
)
SELECT coalesce(r.tenant_id, h.tenant_id), coalesce(r.hour, h.hour),
  ARRAY[r.calls, r.reversed, r.rows, r.bytes_in, r.bytes_out, r.amount_nano],
  ARRAY[h.calls, h.reversed, h.rows, h.bytes_in, h.bytes_out, h.amount_nano]
FROM rows r FULL JOIN (SELECT * FROM usage_hour WHERE hour >= %(since)s::date) h
USING (tenant_id, hour, api_key_id, model_id, version_id, mode, currency)
WHERE (r.calls, r.reversed, r.rows, r.bytes_in, r.bytes_out, r.amount_nano)
  IS DISTINCT FROM (h.calls, h.reversed, h.rows, h.bytes_in, h.bytes_out, h.amount_nano)
"""
SUMS = """
WITH rows AS (
  SELECT tenant_id, api_key_id, period, count(*) AS calls, sum(amount_nano) AS amount_nano FROM usage_event
  WHERE kind = 'usage' AND mode = 'live'
  AND day >= date_trunc('month', %(since)s::date)::date - 1 AND period >= to_char(%(since)s::date, 'YYYY-MM') GROUP BY 1, 2, 3
)
SELECT tenant_id, api_key_id, period, ARRAY[r.calls, r.amount_nano], ARRAY[s.calls, s.amount_nano]
FROM rows r
FULL JOIN (SELECT * FROM usage_month WHERE period >= to_char(%(since)s::date, 'YYYY-MM')) s
USING (tenant_id, api_key_id, period)
WHERE (r.calls, r.amount_nano) IS DISTINCT FROM (s.calls, s.amount_nano)
"""

# As inference.gateway.pricing.exact: rounded up once. What was clamped cost less than its units, and a test call nothing.
AMOUNTS = """
SELECT e.tenant_id, e.price_version, count(*), min(e.call_id::text)
FROM usage_event e LEFT JOIN price_version p ON p.version = e.price_version
WHERE e.day >= %(since)s::date AND e.kind = 'usage' AND NOT e.is_clamped AND (p.version IS NULL OR e.currency <> p.currency
  OR e.amount_nano <> (p.call_price + e.rows * p.row_price) * 1000000000 + ceil(e.compute_us * p.second_price * 1000))
GROUP BY 1, 2 ORDER BY 1, 2
"""
# What grants have paid, against what months say that they have paid; and months that were charged more than the ledger holds.
CREDIT = """
WITH grants AS (
  SELECT tenant_id, sum(amount_nano - remaining_nano - expired_nano) AS used FROM credit_grant GROUP BY 1
), months AS (
  SELECT c.tenant_id, sum(c.burnt_nano) AS burnt, sum(greatest(0, c.spent_nano - coalesce(u.amount_nano, 0))) AS beyond
  FROM credit_month c LEFT JOIN (
    SELECT tenant_id, period, sum(amount_nano) AS amount_nano FROM usage_month GROUP BY 1, 2
  ) u USING (tenant_id, period) GROUP BY 1
)
SELECT tenant_id, coalesce(used, 0)::bigint, coalesce(burnt, 0)::bigint, coalesce(beyond, 0)::bigint
FROM grants FULL JOIN months USING (tenant_id)
WHERE coalesce(used, 0) <> coalesce(burnt, 0) OR coalesce(beyond, 0) > 0
"""


def differences(since: date = FIRST_DAY) -> Iterator[str]:
    """One line for each disagreement; none if the books are right. Calls may go on meanwhile.

    Only rows of calls that were opened on `since` or later are read (for sums of months, from its month on): a partition of the
    ledger is a day.
    """
    with closing(connect()) as connection:
        yield from _ledger_differences(connection, since)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT tenant_id FROM usage_month ORDER BY 1")
            tenants = [UUID(str(tenant)) for (tenant,) in cursor.fetchall()]
        for tenant in tenants:
            yield from _account_differences(connection, tenant)


def _ledger_differences(connection: Connection, since: date) -> Iterator[str]:
    days = {"since": since}
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0")
        cursor.execute(HOURS, days)
        for tenant, hour, rows, there in cursor.fetchall():
            yield f"hour {hour:%Y-%m-%dT%H}: organization {tenant}: rows say {_numbers(rows)}, the hour says {_numbers(there)}"
        cursor.execute(CREDIT)
        for tenant, used, burnt, beyond in cursor.fetchall():
            yield f"credit: organization {tenant}: grants paid {used}, months say {burnt}, of which the ledger lacks {beyond}"
        cursor.execute(SUMS, days)
        for tenant, key, period, rows, there in cursor.fetchall():
            yield f"sum {period}: key {key} of organization {tenant}: rows say {_numbers(rows)}, the sum says {_numbers(there)}"
        cursor.execute(AMOUNTS, days)
        for tenant, version, count, call in cursor.fetchall():
            yield f"price {version}: organization {tenant}: {count} rows have another amount than their units make, as {call}"


def _account_differences(connection: Connection, tenant: UUID) -> Iterator[str]:
    """An account that is not there is no difference: it is rebuilt when it is wanted."""
    if accounts.read(tenant.hex) is None:
        return
    for _ in range(ATTEMPTS):
        snapshot = read_snapshot(connection, tenant)
        found = accounts.compare(tenant.hex, snapshot.sums, snapshot.position, most=MOST_RECORDS)
        if found is not None:
            for field, (there, right) in sorted(found.items()):
                yield f"account {field}: organization {tenant}: it holds {there}, ledger + journal + open are {right}"
            return
    yield f"account: organization {tenant}: it could not be compared, the journal moved too fast"


def _numbers(values: list[int | None]) -> str:
    return "/".join("-" if value is None else str(value) for value in values)
