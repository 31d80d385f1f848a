"""Whether there is room for what customers bring, before it is taken: files on a disk, and rows in PostgreSQL."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import connection

from saas.lib.errors import Unavailable

log = logging.getLogger(__name__)

FULL = 0.9  # part of a disk in use from which nothing more is taken (security.md, Drains and outages)
LOOK_EVERY = 5.0  # seconds between looks at PostgreSQL: its size is that of all its files
RETRY_AFTER = 60  # seconds until it is worth to try again


def has_room(folder: Path) -> bool:
    """False if the disk of that folder is almost full, as df says: what is reserved is nobody's room. Raises OSError."""
    usage = shutil.disk_usage(folder)
    return usage.used < FULL * (usage.used + usage.free)


class Database:
    """PostgreSQL's room, as this process saw it last."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: tuple[float, bool] | None = None

    def check(self) -> None:
        """Raises Unavailable if its disk (DATABASE_DIR) is almost full, or it has grown to DATABASE_MAX_BYTES."""
        now = self._monotonic()
        if self._seen is None or now - self._seen[0] >= LOOK_EVERY:
            self._seen = now, _disk_has_room() and _is_below_its_bound()
        if not self._seen[1]:
            raise Unavailable("There is no room to keep inputs and answers right now", retry_after=RETRY_AFTER)


def _disk_has_room() -> bool:
    folder: str = settings.CONFIG.database_dir
    try:
        return not folder or has_room(Path(folder))
    except OSError as error:  # nothing is known of it then, which is no reason to refuse everything
        log.warning("the disk of DATABASE_DIR cannot be looked at: %s", error)
        return True


def _is_below_its_bound() -> bool:
    most: int = settings.CONFIG.database_max_bytes
    if not most:
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        (size,) = cursor.fetchone()
    return bool(size < most)


DATABASE = Database()
