"""The history checker: a pure function from a drill's evidence to all that does not hold (docs/reliability.md)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from tests.drill import money_rules, usage_rules
from tests.drill.evidence import Evidence, Prediction, Request, Row, Upset, sums_of

CLOSE_LIFE = 20.0  # seconds: a call that ended longer than this before its gateway fell had its close acknowledged long ago
REFUSED_UNOPENED = {400, 401, 403, 404, 409, 413, 415, 422}  # refusals that are made before or instead of an open


class Finding(NamedTuple):
    """`name` says which rule was broken; `family` what the drill counts it as."""

    name: str
    text: str

    @property
    def family(self) -> str:
        return FAMILIES.get(self.name, "other")


FAMILIES = {
    "lost": "lost",
    "lost_prediction": "lost",
    "not_stored": "lost",
    "wrongly_reversed": "lost",
    "unheard": "lost",
    "double": "double",
    "double_call": "double",
    "charged_replay": "double",
    "charged_twice": "double",
    "charged_failure": "double",
    "unknown_row": "double",
    "leaked": "leaked",
    "counter": "leaked",
    "over_cap": "over-cap",
    "overrun": "over-cap",
    "unsealed": "lost",
    "sealed_twice": "double",
    "untold": "lost",
    "told_twice": "double",
}
TOTALS = ("lost", "double", "leaked", "over-cap", "other")


def check(evidence: Evidence) -> list[Finding]:
    """All that is wrong; an empty list proves the run. The platform has to be at rest: the journal drained, nothing running."""
    return [Finding(*found) for rule in RULES for found in rule(evidence)]


def totals(findings: Iterable[Finding]) -> dict[str, int]:
    counted = Counter(finding.family for finding in findings)
    return {family: counted[family] for family in TOTALS}


Found = Iterator[tuple[str, str]]
Rows = dict[str, list[Row]]


def each_call_has_one_row(evidence: Evidence) -> Found:
    for call, count in Counter(row.call for row in [*evidence.rows, *evidence.journal]).items():
        if count > 1:
            yield "double_call", f"call {call} has {count} rows"


def each_row_has_its_request(evidence: Evidence) -> Found:
    known = {request.request_id: request for request in evidence.requests}
    for row in evidence.rows:
        request = known.get(row.request_id)
        if request is None:
            yield "unknown_row", f"call {row.call}: nobody has sent request {row.request_id}"
        elif (row.organization, row.key) != (request.caller.organization, request.caller.key):
            yield "foreign_row", f"call {row.call}: on another's bill than request {row.request_id}'s"


def each_request_has_its_rows(evidence: Evidence) -> Found:
    rows = by_request(evidence.rows)
    for request in evidence.requests:
        if request.kind == "prediction":
            continue
        mine = rows.get(request.request_id, [])
        kinds = sorted(row.kind for row in mine)
        for name, text in _rule_of(request)(request, kinds, evidence.upsets):
            yield name, f"{request.kind} {request.request_id}: {text}; rows {kinds}"


def _rule_of(request: Request) -> Callable[[Request, list[str], list[Upset]], Found]:
    if request.status is None:
        return _unheard
    if request.status != 200:
        return _refused
    return _replayed if request.is_replay else _answered


def _answered(request: Request, kinds: list[str], upsets: list[Upset]) -> Found:
    """One row. Reversed only if its gateway fell before the close was acknowledged; a keyed one is closed before its answer."""
    if not kinds:
        yield "lost", "answered and not in the ledger"
    elif len(kinds) > 1:
        yield "double", "answered once"
    elif kinds == ["reversed"] and request.idempotency_key is not None:
        yield "wrongly_reversed", "its outcome was stored before the answer left"
    elif kinds == ["reversed"] and not fell_by_then(request, upsets):
        yield "wrongly_reversed", "its gateway did not fall"


def _replayed(request: Request, kinds: list[str], upsets: list[Upset]) -> Found:
    if kinds:
        yield "charged_replay", "a replay costs nothing"


def _refused(request: Request, kinds: list[str], upsets: list[Upset]) -> Found:
    """Nothing charged. A reversed row only for a call that was open when its gateway fell."""
    if "usage" in kinds:
        yield "charged_failure", f"status {request.status} {request.code}"
    elif len(kinds) > 1:
        yield "double", f"status {request.status}, one call"
    elif kinds and request.status in REFUSED_UNOPENED:
        yield "row_of_refused", f"status {request.status} {request.code} opens nothing"
    elif kinds and not fell_by_then(request, upsets):
        yield "wrongly_reversed", f"status {request.status}, and its gateway did not fall"


def _unheard(request: Request, kinds: list[str], upsets: list[Upset]) -> Found:
    """The connection broke: it may have been answered or not, but only if something had fallen."""
    if len(kinds) > 1:
        yield "double", "one call"
    elif kinds and not fell_by_then(request, upsets, "gateway", "state"):
        yield "unheard", "no answer was heard, and nothing had fallen"


def fell_by_then(request: Request, upsets: list[Upset], *parts: str) -> bool:
    """Whether one of `parts` (the gateway) fell while this call may have been open: until its close was acknowledged."""
    return any(
        upset.part in (parts or ("gateway",))
        and upset.ended_at >= request.sent_at
        and upset.began_at - request.ended_at < CLOSE_LIFE
        for upset in upsets
    )


def each_key_is_charged_once(evidence: Evidence) -> Found:
    """All requests with one Idempotency-Key are one call: answered at most once, charged exactly if an answer is stored."""
    rows, groups = by_request(evidence.rows), defaultdict(list)
    for request in evidence.requests:
        if request.idempotency_key is not None and request.kind != "prediction":
            groups[request.caller.organization, request.idempotency_key].append(request)
    for (_, key), group in groups.items():
        charged = sum(row.kind == "usage" for request in group for row in rows.get(request.request_id, []))
        has_answer = any(request.status == 200 for request in group)
        if charged > 1:
            yield "charged_twice", f"Idempotency-Key {key}: {charged} charged rows"
        elif has_answer and not charged:
            yield "lost", f"Idempotency-Key {key}: answered and not charged"
        elif charged and not has_answer:
            yield "not_stored", f"Idempotency-Key {key}: charged, and no request with it ever got the answer"
        if sum(request.is_answered for request in group) > 1:
            yield "run_twice", f"Idempotency-Key {key}: answered twice as if new"


def each_answer_is_its_own(evidence: Evidence) -> Found:
    for request in evidence.requests:
        if request.status != 200:
            continue
        if request.kind in ("bad", "foreign", "nobody"):
            yield "let_in", f"{request.kind} {request.request_id} was answered"
        elif request.got != request.mark:
            yield "foreign_answer", f"{request.kind} {request.request_id}: sent {request.mark}, got {request.got}"


def each_prediction_ends_once(evidence: Evidence) -> Found:
    """One that succeeded is charged once; attempts whose worker fell may have left reversed rows; no other is charged."""
    rows = by_request(evidence.rows)
    there = {prediction.request_id: prediction for prediction in evidence.predictions}
    for request in evidence.requests:
        if request.kind != "prediction":
            continue
        charged = sum(row.kind == "usage" for row in rows.get(request.request_id, []))
        found = there.get(request.request_id)
        if found is None:
            yield from _not_there(request, charged)
        else:
            yield from _of_prediction(request, found, charged)


def _not_there(request: Request, charged: int) -> Found:
    if charged:
        yield "charged_failure", f"prediction {request.request_id} is charged and not there"
    elif request.status in (201, 202) and not request.is_replay:
        yield "lost_prediction", f"prediction {request.request_id} was accepted and is not there"


def _of_prediction(request: Request, found: Prediction, charged: int) -> Found:
    told = f"prediction {request.request_id} {found.status}: {charged} charged rows"
    if charged > 1:
        yield "charged_twice", told
    elif found.status == "succeeded" and not charged:
        yield "lost", told
    elif charged and found.status in ("failed", "canceled"):
        yield "charged_failure", told
    if found.status == "succeeded" and found.got != request.mark:
        yield "foreign_answer", f"prediction {request.request_id}: sent {request.mark}, got {found.got}"
    if found.status not in ("succeeded", "failed", "canceled"):
        yield "unfinished", told


def nothing_is_left(evidence: Evidence) -> Found:
    for call in evidence.open_calls:
        yield "leaked", f"call {call} is still open"
    for row in evidence.journal:
        yield "undrained", f"call {row.call} is still in the journal"
    if evidence.quarantined:
        yield "quarantined", f"{evidence.quarantined} records are in quarantine"


def each_account_agrees(evidence: Evidence) -> Found:
    """Account = ledger + journal + open. What is open is a finding of its own, and raises the sums by one each."""
    expected = sums_of([*evidence.rows, *evidence.journal])
    for organization in sorted({request.caller.organization for request in evidence.requests}):
        account, right = evidence.accounts.get(organization, {}), expected.get(organization, {})
        for scope in sorted({*account, *right}):
            if account.get(scope, (0, 0)) != right.get(scope, (0, 0)):
                yield (
                    "counter",
                    f"{organization} {scope}: it holds {account.get(scope)}, ledger and journal say {right.get(scope)}",
                )


def no_cap_is_passed(evidence: Evidence) -> Found:
    expected = sums_of([*evidence.rows, *evidence.journal])
    for (organization, key), most in evidence.caps.items():
        for (scope, period), (calls, _) in expected.get(organization, {}).items():
            if scope == key and period != "ever" and calls > most:
                yield "over_cap", f"{organization} {key}: {calls} charged calls in {period}, {most} are allowed"


RULES = (
    each_call_has_one_row,
    each_row_has_its_request,
    each_request_has_its_rows,
    each_key_is_charged_once,
    each_answer_is_its_own,
    each_prediction_ends_once,
    nothing_is_left,
    each_account_agrees,
    no_cap_is_passed,
    *money_rules.RULES,
    *usage_rules.RULES,
)


def by_request(rows: list[Row]) -> Rows:
    found: Rows = defaultdict(list)
    for row in rows:
        found[row.request_id].append(row)
    return found
