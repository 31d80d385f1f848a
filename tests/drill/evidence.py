"""What a drill leaves to judge: what was asked and answered, and what every store says of it. Plain values, no connection."""

from collections import Counter, defaultdict
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
    shown_id: str = ""  # of the key


@dataclass(frozen=True, slots=True)
class Cap:
    """The limit on money that a refusal names, in nano. `source`: whose it is, organization or key."""

    name: str
    source: str
    limit: int
    left: int


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
    cap: Cap | None = None  # of a 402
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
    hour: int = 0  # in which it was journaled, since the epoch


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


@dataclass(frozen=True)
class Purse:
    """How much an organization or a key may spend, a month (`budget`) or ever (`credit`), and what its calls cost, in nano."""

    kind: str
    limit: int
    call: int = 0
    row: int = 0
    second: int = 0
    timeout: int = 0  # seconds of computing that a call may ask for

    def most(self, rows: int) -> int:
        """What is charged for a call when it opens."""
        return self.call + rows * self.row + self.timeout * self.second

    def counts(self, period: str) -> bool:
        return (period == "ever") == (self.kind == "credit")


@dataclass(frozen=True)
class Burnt:
    """What the grants of an organization say: what remains, what was charged to them, and what they did not cover."""

    remaining: int
    burnt: int
    overrun: int


@dataclass(frozen=True)
class Seal:
    organization: str
    hour: int
    calls: int
    nano: int


@dataclass(frozen=True)
class Told:
    """One row of usage for Stripe: `nano` of the ledger, `value` whole units, told under `identifier`."""

    organization: str
    identifier: str
    hour: int
    month: str
    nano: int
    value: int
    state: str = "accepted"


@dataclass(frozen=True)
class Counted:
    """One meter event as Stripe has counted it."""

    identifier: str
    hour: int
    value: int


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
    purses: dict[tuple[str, str], Purse] = field(default_factory=dict)  # by (organization, key or "")
    peaks: dict[str, Sums] = field(default_factory=dict)  # by organization: the most that its account was seen to hold
    burnt: dict[str, Burnt] = field(default_factory=dict)  # by organization with credit
    rested_at: float = float("inf")  # from when on nothing was under way any more
    seals: list[Seal] = field(default_factory=list)
    subscribed: set[str] = field(default_factory=set)  # organizations whose usage Stripe is told
    told: list[Told] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)

    def statuses(self) -> Counter[tuple[str, str]]:
        """(kind, what became of it) → requests."""
        return Counter((request.kind, _outcome(request)) for request in self.requests)


def _outcome(request: Request) -> str:
    if request.status is None:
        return "no answer"
    return f"{request.status} {'replayed' if request.is_replay else request.code}".strip()


def sums_of(rows: list[Row]) -> dict[str, Sums]:
    """What accounts hold if these rows are all there is: charged calls by organization and key, by month and ever."""
    sums: dict[str, Sums] = defaultdict(dict)
    for row in rows:
        if row.kind == "usage":
            account = sums[row.organization]
            for scope in (("", row.period), ("", "ever"), (row.key, row.period), (row.key, "ever")):
                calls, nano = account.get(scope, (0, 0))
                account[scope] = calls + 1, nano + row.nano
    return sums
