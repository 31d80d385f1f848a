"""The scripts of the books. Each .lua file describes its keys and arguments at its top; prelude.lua is what they share."""

from pathlib import Path

from saas.lib.valkey import Script


def _script(name: str) -> Script:
    here = Path(__file__).parent
    return Script(here / "prelude.lua", here / f"{name}.lua")


BOOKS = _script("books")
SESSION = _script("session")
BEAT = _script("beat")
LEAVE = _script("leave")
WATCH = _script("watch")
TAKE = _script("take")
REAP = _script("reap")
LIMITS = _script("limits")
REBUILD = _script("rebuild")
TRIM = _script("trim")
KEEP = _script("keep")
END_HOURS = _script("end_hours")

JOURNAL = "journal"
TRIMMED = "journal:trimmed"
WANTED = "accounts:wanted"
KEPT_FROM = "accounts:kept_from"
FULL = "books:full"


def open_key(session: str) -> str:
    return f"open:{session}"


def reaping_key(session: str) -> str:
    return f"reaping:{session}"


def account_key(tenant: str) -> str:
    return f"account:{tenant}"


def limits_key(tenant: str) -> str:
    return f"limits:{tenant}"
