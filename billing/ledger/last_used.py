"""When each API key was last used, told to the keys' table once a minute from what the drain has seen."""

import threading
from datetime import UTC, datetime

from psycopg2.extensions import connection as Connection

from billing.ledger.records import NO_KEY


class LastUsed:
    """Collects, in the drain's thread, the newest opening per key (ms since the epoch); `flush`, in any, writes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}

    def note(self, used: dict[str, int]) -> None:
        with self._lock:
            for key, opened_ms in used.items():
                if key != NO_KEY and self._seen.get(key, 0) < opened_ms:
                    self._seen[key] = opened_ms

    def flush(self, connection: Connection) -> None:
        """Write what was noted. On psycopg2.Error it is lost: the key's next use tells a newer time."""
        with self._lock:
            seen, self._seen = self._seen, {}
        if seen:
            times = [datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in seen.values()]
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT touch_api_keys(%s::uuid[], %s::timestamptz[])", [list(seen), times])
