"""The checker itself: an honest history passes, and each forged one is found and named."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.drill.checker import check, totals
from tests.drill.evidence import (
    Burnt,
    Caller,
    Cap,
    Counted,
    Evidence,
    Prediction,
    Purse,
    Request,
    Row,
    Seal,
    Told,
    Upset,
    sums_of,
)

pytestmark = pytest.mark.no_servers

ALICE, BOB = Caller("a" * 32, "1" * 32), Caller("b" * 32, "2" * 32)
CAROL, CAROLS_OTHER = Caller("c" * 32, "3" * 32), Caller("c" * 32, "4" * 32)  # with a budget, and one of a key
DAVE = Caller("d" * 32, "5" * 32)  # with credit
BUDGET, KEYS_BUDGET, CREDIT = 2500, 1100, 2100
PRICE = {"call": 700, "row": 300, "second": 50, "timeout": 2}  # 1100 at most
FELL = Upset("gateway", "KILL", began_at=100.0, ended_at=104.0)


def asked(name: str, caller: Caller = ALICE, kind: str = "json", status: int | None = 200, **more) -> Request:
    mark = (float(len(name)), 0.0, float(ord(name[0])))
    times = {"sent_at": 50.0, "ended_at": 51.0}
    return Request(caller, kind, name, mark, status=status, got=mark if status == 200 else None, **{**times, **more})


def row_of(request: Request, **more) -> Row:
    caller = request.caller
    names = {"call": f"call-{request.request_id}", "request_id": request.request_id}
    return Row(**{**names, "organization": caller.organization, "key": caller.key, **more})


def honest() -> Evidence:
    """A run with everything in it that may happen: a gateway fell at 100, and all is as books.md allows."""
    requests = {
        request.request_id: request
        for request in (
            asked("plain"),
            asked("binary", BOB, "binary"),
            asked("before-the-fall", sent_at=99.0, ended_at=99.9),
            asked("unheard-charged", status=None, sent_at=99.0, ended_at=101.0),
            asked("unheard-reversed", status=None, sent_at=99.0, ended_at=101.0),
            asked("unheard-free", status=None, sent_at=101.0, ended_at=102.0),
            asked("unavailable", status=503, code="unavailable", sent_at=99.5, ended_at=103.0),
            asked("late", status=504, code="deadline_exceeded"),
            asked("capped", BOB, status=429, code="quota_exceeded"),
            asked("wrong", kind="bad", status=400),
            asked("strange", kind="foreign", status=404),
            asked("keyed", kind="keyed", idempotency_key="k1"),
            asked("again", kind="again", idempotency_key="k1", is_replay=True),
            asked("keyed-unheard", kind="keyed", status=None, idempotency_key="k2", sent_at=99.0, ended_at=101.0),
            asked("keyed-retry", kind="again", idempotency_key="k2", is_replay=True),
            asked("pred-done", kind="prediction", status=202),
            asked("pred-failed", kind="prediction", status=202),
            asked("pred-unheard", kind="prediction", status=None, sent_at=99.0, ended_at=101.0),
            asked("spent", CAROL),
            asked("spent-by-key", CAROLS_OTHER),
            asked("over-budget", CAROL, status=402, code="budget_exceeded", cap=Cap("budget", "organization", BUDGET, 0)),
            asked("over-key's", CAROLS_OTHER, status=402, code="budget_exceeded", cap=Cap("budget", "key", KEYS_BUDGET, 100)),
            asked("pred-over", CAROL, "prediction", 402, code="budget_exceeded", cap=Cap("budget", "organization", BUDGET, 0)),
            asked("burnt", DAVE),
            asked(
                "at-rest",
                DAVE,
                status=402,
                code="credit_exhausted",
                cap=Cap("credit", "organization", CREDIT, 1090),
                sent_at=200.0,
                ended_at=201.0,
            ),
        )
    }
    charged = ["plain", "binary", "unheard-charged", "keyed", "keyed-unheard", "pred-done"]
    rows = [row_of(requests[name]) for name in charged]
    rows += [row_of(requests[name], nano=1010, hour=hour) for name, hour in (("spent", 7), ("spent-by-key", 8), ("burnt", 8))]
    rows += [row_of(requests[name], kind="reversed") for name in ("before-the-fall", "unheard-reversed", "unavailable")]
    rows += [row_of(requests["pred-done"], call="call-attempt-1", kind="reversed")]
    done = requests["pred-done"]
    predictions = [
        Prediction("pred-done", done.caller.organization, "succeeded", done.mark),
        Prediction("pred-failed", done.caller.organization, "failed"),
    ]
    return Evidence(
        list(requests.values()),
        rows,
        predictions,
        accounts=dict(sums_of(rows)),
        caps={(BOB.organization, ""): 1},
        upsets=[FELL],
        purses={
            (CAROL.organization, ""): Purse("budget", BUDGET, **PRICE),
            (CAROL.organization, CAROLS_OTHER.key): Purse("budget", KEYS_BUDGET, **PRICE),
            (DAVE.organization, ""): Purse("credit", CREDIT, **PRICE),
        },
        peaks={CAROL.organization: {("", "2026-01"): (3, BUDGET), ("", "ever"): (9, 9000)}},
        burnt={DAVE.organization: Burnt(CREDIT - 1010, 1010, 0)},
        rested_at=200.0,
        seals=seals_of(rows),
        subscribed={CAROL.organization},
        told=[
            Told(CAROL.organization, "told-7", 7, "2026-01", 1010, 1),
            Told(CAROL.organization, "told-8", 8, "2026-01", 1010, 1),
            Told(CAROL.organization, "told-nothing", 9, "2026-01", 0, 0),
        ],
        counted=[Counted("told-7", 7, 1), Counted("told-8", 8, 1)],
    )


def seals_of(rows: list[Row]) -> list[Seal]:
    """As the sealer makes them."""
    hours = sorted({(row.organization, row.hour) for row in rows})
    its = {of: [row.nano for row in rows if (row.organization, row.hour) == of] for of in hours}
    return [Seal(*of, len(amounts), sum(amounts)) for of, amounts in its.items()]


def seal(evidence: Evidence, hour: int, **fields) -> None:
    """Of Carol's."""
    evidence.seals = [
        replace(each, **fields) if (each.organization, each.hour) == (CAROL.organization, hour) else each
        for each in evidence.seals
    ]


def told(evidence: Evidence, name: str, **fields) -> None:
    evidence.told = [replace(each, **fields) if each.identifier == name else each for each in evidence.told]


def count_again(evidence: Evidence, name: str, **fields) -> None:
    evidence.counted += [replace(each, **fields) for each in evidence.counted if each.identifier == name]


def uncount(evidence: Evidence, name: str) -> None:
    evidence.counted = [each for each in evidence.counted if each.identifier != name]


def limit(evidence: Evidence, caller: Caller, key: str, nano: int) -> None:
    purse = evidence.purses[caller.organization, key]
    evidence.purses[caller.organization, key] = replace(purse, limit=nano)


def cap(evidence: Evidence, refusal: str, /, **fields) -> None:
    found = request(evidence, refusal).cap
    assert found is not None
    set_(evidence, refusal, cap=replace(found, **fields))


def request(evidence: Evidence, name: str) -> Request:
    return next(request for request in evidence.requests if request.request_id == name)


def drop(evidence: Evidence, name: str) -> None:
    evidence.rows = [row for row in evidence.rows if row.request_id != name]


def alter(evidence: Evidence, name: str, **columns) -> None:
    evidence.rows = [
        replace(row, **columns) if row.request_id == name and row.kind == "usage" else row for row in evidence.rows
    ]


def add(evidence: Evidence, name: str, **columns) -> None:
    evidence.rows.append(row_of(request(evidence, name), **{"call": "call-more", **columns}))


def set_(evidence: Evidence, name: str, **fields) -> None:
    for field, value in fields.items():
        setattr(request(evidence, name), field, value)


def prediction(evidence: Evidence, name: str, **fields) -> None:
    evidence.predictions = [replace(p, **fields) if p.request_id == name else p for p in evidence.predictions]


def count(evidence: Evidence, by: int = 0, nano: int = 0) -> None:
    scope = ("", "ever")
    calls, sum_nano = evidence.accounts[ALICE.organization][scope]
    evidence.accounts[ALICE.organization][scope] = calls + by, sum_nano + nano


FORGED: dict[str, tuple[str, Callable[[Evidence], None]]] = {
    "an answered call has no row": ("lost", lambda e: drop(e, "plain")),
    "an answered call has two charged rows": ("double", lambda e: add(e, "plain")),
    "an answered call is charged and reversed": ("double", lambda e: add(e, "plain", kind="reversed")),
    "one call id stands in the ledger twice": ("double_call", lambda e: add(e, "plain", call="call-plain", kind="reversed")),
    "an answered call is reversed, and no gateway fell": (
        "wrongly_reversed", lambda e: set_(e, "before-the-fall", sent_at=1, ended_at=2)),
    "an answered keyed call is reversed": ("wrongly_reversed", lambda e: alter(e, "keyed", kind="reversed")),
    "a call that got 503 is charged": ("charged_failure", lambda e: add(e, "unavailable")),
    "a call that got 504 is charged": ("charged_failure", lambda e: add(e, "late")),
    "a call that its cap refused is charged": ("charged_failure", lambda e: add(e, "capped")),
    "bad input is charged": ("charged_failure", lambda e: add(e, "wrong")),
    "bad input was opened": ("row_of_refused", lambda e: add(e, "wrong", kind="reversed")),
    "a late call is reversed, and nothing had fallen": ("wrongly_reversed", lambda e: add(e, "late", kind="reversed")),
    "a call without an answer has two rows": ("double", lambda e: add(e, "unheard-charged")),
    "a call is charged without an answer, and nothing had fallen": (
        "unheard", lambda e: set_(e, "unheard-charged", sent_at=1, ended_at=2)),
    "a replay is charged": ("charged_replay", lambda e: add(e, "again")),
    "a keyed call and its retry are both charged": ("charged_twice", lambda e: add(e, "keyed-retry")),
    "a keyed call is answered twice as if new": ("run_twice", lambda e: set_(e, "again", is_replay=False)),
    "a charged keyed call's answer is not stored": ("not_stored", lambda e: set_(e, "keyed-retry", status=503)),
    "a replayed answer was never charged": ("lost", lambda e: drop(e, "keyed-unheard")),
    "an answer brings another caller's rows": ("foreign_answer", lambda e: set_(e, "plain", got=request(e, "binary").mark)),
    "an answer brings another row of the same caller": (
        "foreign_answer", lambda e: set_(e, "plain", got=request(e, "keyed").mark)),
    "an answer brings no rows": ("foreign_answer", lambda e: set_(e, "plain", got=None)),
    "a call is on another organization's bill": ("foreign_row", lambda e: alter(e, "plain", organization=BOB.organization)),
    "a call is on another key's bill": ("foreign_row", lambda e: alter(e, "plain", key=BOB.key)),
    "a stranger is let in": ("let_in", lambda e: set_(e, "strange", status=200)),
    "a row belongs to no request": ("unknown_row", lambda e: add(e, "plain", request_id="nobody's")),
    "a succeeded prediction has no row": ("lost", lambda e: drop(e, "pred-done")),
    "a succeeded prediction is charged twice": ("charged_twice", lambda e: add(e, "pred-done")),
    "a failed prediction is charged": ("charged_failure", lambda e: add(e, "pred-failed")),
    "a prediction brings another's rows": ("foreign_answer", lambda e: prediction(e, "pred-done", got=(9.0, 9.0, 9.0))),
    "a prediction never ends": ("unfinished", lambda e: prediction(e, "pred-failed", status="processing")),
    "an accepted prediction is not there": ("lost_prediction", lambda e: e.predictions.pop()),
    "a call is charged for a prediction that is not there": ("charged_failure", lambda e: add(e, "pred-unheard")),
    "a call is still open": ("leaked", lambda e: e.open_calls.append("c" * 32)),
    "a record never reached the ledger": ("undrained", lambda e: e.journal.append(e.rows.pop())),
    "a record lies in quarantine": ("quarantined", lambda e: setattr(e, "quarantined", 1)),
    "a counter is one too high": ("counter", lambda e: count(e, 1)),
    "a counter is one too low": ("counter", lambda e: count(e, -1)),
    "a counter is one nano off": ("counter", lambda e: count(e, nano=1)),
    "an account is not there": ("counter", lambda e: e.accounts.clear()),
    "a cap is passed by one": ("over_cap", lambda e: e.caps.update({(ALICE.organization, ""): 4})),
    "a key's cap is passed by one": ("over_cap", lambda e: e.caps.update({(BOB.organization, BOB.key): 0})),
    "a budget is passed by one unit": ("over_cap", lambda e: limit(e, CAROL, "", 2 * 1010 - 1)),
    "a key's budget is passed by one unit": ("over_cap", lambda e: limit(e, CAROL, CAROLS_OTHER.key, 1010 - 1)),
    "credit is passed by one unit": ("over_cap", lambda e: limit(e, DAVE, "", 1010 - 1)),
    "a budget was passed by one unit for a while": (
        "over_cap", lambda e: e.peaks[CAROL.organization].update({("", "2026-01"): (3, BUDGET + 1)})),
    "an account is above its credit": (
        "over_cap", lambda e: e.accounts[DAVE.organization].update({("", "ever"): (1, CREDIT + 1)})),
    "a call that its budget refused is charged": ("charged_failure", lambda e: add(e, "over-budget")),
    "a refusal names no cap": ("wrong_cap", lambda e: set_(e, "over-budget", cap=None)),
    "a refusal names another's cap": ("wrong_cap", lambda e: cap(e, "over-budget", name="credit")),
    "a refusal has another cap's code": ("wrong_cap", lambda e: set_(e, "over-budget", code="credit_exhausted")),
    "a refusal says another limit": ("wrong_cap", lambda e: cap(e, "over-key's", limit=BUDGET)),
    "who has no budget is refused by one": ("wrong_cap", lambda e: cap(e, "at-rest", source="key")),
    "a call is refused that its budget pays for": ("refused_early", lambda e: cap(e, "over-key's", left=1100)),
    "a refusal at rest says one unit too much": ("wrong_cap", lambda e: cap(e, "at-rest", left=1091)),
    "a charge was not taken from the credit": (
        "counter", lambda e: e.burnt.update({DAVE.organization: Burnt(CREDIT, 0, 0)})),
    "a grant has lost a unit": ("counter", lambda e: e.burnt.update({DAVE.organization: Burnt(CREDIT - 1011, 1010, 0)})),
    "credit did not cover a charge": ("overrun", lambda e: e.burnt.update({DAVE.organization: Burnt(1090, 1010, 1)})),
    "an hour is not sealed": ("unsealed", lambda e: e.seals.pop()),
    "a call is missing in its seal": ("unsealed", lambda e: seal(e, 7, calls=0)),
    "an hour is sealed twice": ("sealed_twice", lambda e: e.seals.append(e.seals[-1])),
    "a seal has one unit too many": ("sealed_twice", lambda e: seal(e, 7, nano=1011)),
    "a sealed hour is not told": ("untold", lambda e: e.told.pop(1)),
    "more is told than is sealed": ("told_twice", lambda e: told(e, "told-7", nano=1011)),
    "a whole unit is not told": ("untold", lambda e: told(e, "told-7", value=0)),
    "a unit too many is told": ("told_twice", lambda e: told(e, "told-7", value=2)),
    "an event still waits": ("untold", lambda e: told(e, "told-8", state="due")),
    "an event is refused": ("untold", lambda e: told(e, "told-8", state="rejected")),
    "an event never reached Stripe": ("untold", lambda e: uncount(e, "told-8")),
    "Stripe has counted an event twice": ("told_twice", lambda e: count_again(e, "told-8")),
    "Stripe has an event that nobody sent": ("told_twice", lambda e: count_again(e, "told-8", identifier="strange")),
    "Stripe has another value": ("told_otherwise", lambda e: (count_again(e, "told-8", value=2), e.counted.pop(1))),
    "Stripe has an event in another hour": ("told_otherwise", lambda e: (count_again(e, "told-8", hour=9), e.counted.pop(1))),
}  # fmt: skip


def test_an_honest_history_passes():
    assert check(honest()) == []


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_history_is_found_and_named(forgery):
    name, forge = FORGED[forgery]
    evidence = honest()
    forge(evidence)
    assert name in {finding.name for finding in check(evidence)}


def test_findings_are_counted_as_the_drill_prints_them():
    evidence = honest()
    drop(evidence, "plain")
    evidence.seals = seals_of(evidence.rows)
    evidence.open_calls.append("c" * 32)
    assert totals(check(evidence)) == {"lost": 1, "double": 0, "leaked": 4 + 1, "over-cap": 0, "other": 0}


def test_every_rule_is_broken_by_some_forgery():
    """Without any one rule at least one forgery would pass."""
    from tests.drill.checker import RULES

    for rule in RULES:
        assert any(name in {found for found, _ in rule(forged(forge))} for name, forge in FORGED.values()), rule.__name__


def forged(forge: Callable[[Evidence], None]) -> Evidence:
    evidence = honest()
    forge(evidence)
    return evidence
