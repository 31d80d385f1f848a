"""One call in the books, and the states it goes through."""

import hashlib
from collections.abc import Callable

KEEP_SECONDS = (48 * 3600, 600)  # that an outcome can be replayed (books.md), and if its tenant has very much stored

# The states of a call. QUEUED, and CLOSING when it was not sent yet, are known to this process only.
NEW, QUEUED, OPENING, OPEN, CLOSING, CLOSE_SENT, ENDED = range(7)


class OpenCall:
    """One call in the books. The fields before `state` are the caller's and stay as they are once it is given to `open`.

    `call` is a UUIDv7 of the corrected clock, as 32 hexadecimal digits, like `tenant` and `key` ("" for a session's call).
    `period` is the month whose sums it raises, `max_nano` the most it can cost. `record` is what pack_opened makes of its
    UsageRecord: if this process dies it becomes the `reversed` one. `claim` names the Idempotency-Key, unique among all
    tenants (None: none), and `fingerprint` the request; its outcome is kept for the first of `keep_seconds` after the close,
    and for the second if the tenant has very much stored.

    `on_open(verdict, note)` gets one of OPEN_VERDICTS or "lost", and the note that books.lua gave with it: the stored answer of
    a "replay", the limit and what is left of it where one refused the call. A call that is open may get a second verdict,
    "lost": its session was taken by a reaper before it was closed, so its answer must not leave any more.
    """

    __slots__ = (
        "call",
        "claim",
        "claim_key",
        "fingerprint",
        "is_close_sent",
        "is_open_sent",
        "is_repeated",
        "keep_seconds",
        "key",
        "max_nano",
        "mode",
        "nano",
        "on_close",
        "on_open",
        "outcome",
        "period",
        "record",
        "state",
        "stored",
        "tenant",
    )

    def __init__(
        self,
        call: str,
        tenant: str,
        key: str,
        period: str,
        max_nano: int,
        mode: str,
        record: bytes,
        on_open: Callable[[str, bytes | None], None],
        claim: bytes | None = None,
        fingerprint: bytes = b"",
        keep_seconds: tuple[int, int] = KEEP_SECONDS,
    ) -> None:
        self.call, self.tenant, self.key, self.period = call, tenant, key, period
        self.max_nano, self.mode, self.record, self.on_open = max_nano, mode, record, on_open
        self.claim, self.fingerprint, self.keep_seconds = claim, fingerprint, keep_seconds
        self.claim_key = "" if claim is None else f"claim:{hashlib.sha256(claim).hexdigest()}"
        self.state = NEW
        self.outcome: bytes | None = None  # how it ended: None not yet, b"" failed, else the packed end of its record
        self.nano = 0
        self.stored = b""
        self.on_close: Callable[[str], None] | None = None
        self.is_open_sent = self.is_close_sent = False
        self.is_repeated = (
            False  # its entry may be gone because its close was heard before, or not be there because its open was not
        )
