"""What a drill leaves to judge: what was asked and answered, and what every store says of it. Plain values, no connection."""

from collections import Counter
from dataclasses import dataclass, field

Mark = tuple[float, ...]
"""The numbers of a request to an identity model, row after row: [number, serial of thousands, caller]."""


@dataclass(frozen=True)
class Caller:
    """One API key. `key` is its id (32 hexadecimal digits, as `organization`), `presented` what it is in a header."""

    organization: str
    key: str
    presented: str = field(repr=False, default="")
    model: str = ""  # an identity model of its own


@dataclass(slots=True)
class Request:
    """One request of the load. `status` None: no answer was heard. Times are of the drill's monotonic clock."""

    caller: Caller
    kind: str
    request_id: str
    mark: Mark = ()
    idempotency_key: str | None = None
    sent_at: float = 0.0
    ended_at: float = 0.0
    status: int | None = None
    code: str = ""  # of a refusal
    is_replay: bool = False
    got: Mark | None = None  # the numbers of the answer

    @property
    def is_answered(self) -> bool:
        return self.status == 200 and not self.is_replay


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger, or one record of the journal."""

    call: str
    request_id: str
    organization: str
    key: str
    kind: str = "usage"  # or reversed
    endpoint: str = "infer"
    period: str = "2026-01"
    nano: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """One asynchronous prediction, as the platform tells of it."""

    request_id: str
    organization: str
    status: str
    got: Mark | None = None
    code: str = ""  # of a failure


@dataclass(frozen=True)
class Upset:
    """A part that was killed or stopped, from when until it had come back."""

    part: str
    kind: str  # KILL, STOP, TERM
    began_at: float
    ended_at: float


Sums = dict[tuple[str, str], tuple[int, int]]
"""(key, or "" for the organization; period or `ever`) → (calls, nano)."""


@dataclass
class Evidence:
    requests: list[Request]
    rows: list[Row] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    journal: list[Row] = field(default_factory=list)
    open_calls: list[str] = field(default_factory=list)
    accounts: dict[str, Sums] = field(default_factory=dict)  # by organization
    caps: dict[tuple[str, str], int] = field(default_factory=dict)  # (organization, key or "") → calls a month
    upsets: list[Upset] = field(default_factory=list)
    quarantined: int = 0

    def statuses(self) -> Counter[tuple[str, str]]:
        """(kind, what became of it) → requests."""
        return Counter((request.kind, _outcome(request)) for request in self.requests)


def _outcome(request: Request) -> str:
    if request.status is None:
        return "no answer"
    return f"{request.status} {'replayed' if request.is_replay else request.code}".strip()
