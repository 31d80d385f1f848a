"""What the checker demands of usage on its way to Stripe: sealed = ledger, told = sealed, counted = told (checker.py)."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.drill.evidence import Evidence, Told

Found = Iterator[tuple[str, str]]
UNIT = 1000  # nano of the millionth of a currency unit that the meter counts


def each_hour_is_sealed(evidence: Evidence) -> Found:
    """Every row of the ledger is in a seal of the hour in which it was journaled, once."""
    there, sealed = Counter[tuple[str, int, str]](), Counter[tuple[str, int, str]]()
    for row in evidence.rows:
        there[row.organization, row.hour, "calls"] += 1
        there[row.organization, row.hour, "nano"] += row.nano
    for seal in evidence.seals:
        sealed[seal.organization, seal.hour, "calls"] += seal.calls
        sealed[seal.organization, seal.hour, "nano"] += seal.nano
    for of in sorted(there.keys() | sealed.keys()):
        if there[of] != sealed[of]:
            name = "unsealed" if sealed[of] < there[of] else "sealed_twice"
            yield name, f"{of[0]} hour {of[1]}: {sealed[of]} {of[2]} are sealed, the ledger has {there[of]}"


def each_hour_is_told(evidence: Evidence) -> Found:
    """What is sealed of a subscriber is in the rows of its hour, and these add up to whole units, the rest carried on."""
    sealed, covered = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    months: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for seal in evidence.seals:
        if seal.organization in evidence.subscribed:
            sealed[seal.organization, seal.hour] += seal.nano
    for told in evidence.told:
        covered[told.organization, told.hour] += told.nano
        months[told.organization, told.month].append(told)
    for of in sorted(sealed.keys() | covered.keys()):
        if sealed[of] != covered[of]:
            name = "untold" if covered[of] < sealed[of] else "told_twice"
            yield name, f"{of[0]} hour {of[1]}: {covered[of]} nano are told, {sealed[of]} are sealed"
    for (organization, month), rows in months.items():
        units, nano = sum(told.value for told in rows), sum(told.nano for told in rows)
        if units != nano // UNIT:
            name = "untold" if units < nano // UNIT else "told_twice"
            yield name, f"{organization} {month}: {units} units are told of {nano} nano"


def each_event_is_counted_once(evidence: Evidence) -> Found:
    """Each row that has units is one event at Stripe, with its value and in its hour; and Stripe has no other."""
    counted = defaultdict(list)
    for event in evidence.counted:
        counted[event.identifier].append((event.hour, event.value))
    for told in evidence.told:
        events = counted.pop(told.identifier, [])
        if told.state != "accepted":
            yield "untold", f"{told.identifier} is still {told.state}; Stripe has {events}"
        elif len(events) > 1:
            yield "told_twice", f"{told.identifier}: Stripe has {events}"
        elif told.value and not events:
            yield "untold", f"{told.identifier}: {told.value} units are taken as told, and Stripe has none"
        elif events and events != [(told.hour, told.value)]:
            yield "told_otherwise", f"{told.identifier}: {told.value} units, Stripe has {events}"
    for identifier, events in counted.items():
        yield "told_twice", f"{identifier}: Stripe has {events}, and we know of none"


RULES = (each_hour_is_sealed, each_hour_is_told, each_event_is_counted_once)
