"""What the checker demands of budgets and credit: never passed by one unit, and refused by what is used up (checker.py)."""

from collections.abc import Iterator

from tests.drill.evidence import Evidence, Purse, Request, Sums, sums_of

Found = Iterator[tuple[str, str]]
CODES = {"budget": "budget_exceeded", "credit": "credit_exhausted"}


def no_purse_is_overdrawn(evidence: Evidence) -> Found:
    """Not by one unit: in the end by the ledger and by the account, and at no time at which the account was looked at.

    The account counts what is under way at its most, so what it never passes no ledger ever did.
    """
    expected = sums_of([*evidence.rows, *evidence.journal])
    stores = {"ledger and journal": expected, "the account": evidence.accounts, "the account at its highest": evidence.peaks}
    for (organization, key), purse in evidence.purses.items():
        for store, sums in stores.items():
            for period, nano in _spent(sums.get(organization, {}), key, purse):
                if nano > purse.limit:
                    told = f"{nano} nano in {period} by {store}, {purse.limit} are allowed"
                    yield "over_cap", f"{organization} {key} {purse.kind}: {told}"


def each_refusal_names_its_cap(evidence: Evidence) -> Found:
    """A 402 is of a budget or credit that the caller has, which holds less than the call can cost; at rest, to the unit."""
    expected = sums_of([*evidence.rows, *evidence.journal])
    for request in evidence.requests:
        if request.status == 402:
            for name, text in _wrong(request, evidence, expected):
                yield name, f"{request.kind} {request.request_id} {request.code}: {text}; told {request.cap}"


def _wrong(request: Request, evidence: Evidence, expected: dict[str, Sums]) -> Found:
    caller, cap = request.caller, request.cap
    if cap is None:
        yield "wrong_cap", "no cap is named"
        return
    key = caller.key if cap.source == "key" else ""
    purse = evidence.purses.get((caller.organization, key))
    if purse is None or (cap.name, request.code, cap.limit) != (purse.kind, CODES[purse.kind], purse.limit):
        yield "wrong_cap", f"there is {purse}"
        return
    if request.kind == "prediction":  # looked at when it is made and when it starts, each time for what it could cost then
        return
    if not 0 <= cap.left < purse.most(len(request.mark) // 3):
        yield "refused_early", f"it can cost {purse.most(len(request.mark) // 3)}"
    if request.sent_at >= evidence.rested_at:
        spent = max(_spent(expected.get(caller.organization, {}), key, purse), default=("", 0))[1]  # of the newest month
        if cap.left != purse.limit - spent:
            yield "wrong_cap", f"{purse.limit - spent} nano are left by the ledger"


def credit_is_charged_once(evidence: Evidence) -> Found:
    """What the ledger holds is what was taken from the grants, and the rest remains."""
    expected = sums_of([*evidence.rows, *evidence.journal])
    for organization, found in evidence.burnt.items():
        charged = expected.get(organization, {}).get(("", "ever"), (0, 0))[1]
        remaining = evidence.purses[organization, ""].limit - charged
        if found.overrun:
            yield "overrun", f"{organization}: {found.overrun} nano were charged that no credit covers"
        if (found.burnt, found.remaining) != (charged, remaining):
            yield "counter", f"{organization}: {found}, {charged} nano are charged and {remaining} should remain"


def _spent(sums: Sums, key: str, purse: Purse) -> list[tuple[str, int]]:
    """What counts against it: (period, nano)."""
    return [(period, nano) for (scope, period), (_, nano) in sums.items() if scope == key and purse.counts(period)]


RULES = (no_purse_is_overdrawn, each_refusal_names_its_cap, credit_is_charged_once)
