"""The bill that can be checked: the verifier passes on the honest one and names each of many ways to tamper with it."""

import base64
import json
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.models import Subscription
from billing.proof import bill
from billing.proof.sealer import Sealer
from billing.sale import plans, rating
from billing.verify_bill import Calls, Unreadable, Verifier, rated
from inference.gateway import receipts
from inference.gateway.receipts import statement_of
from saas.config import ROOT
from saas.lib.ids import uuid7
from saas.lib.money import text_of
from saas.lib.signing import SigningKeys, signing_keys
from tenants.access import Actor
from tenants.databases import as_operator
from tenants.scope import tenant_scope
from tests.billing.billed import HOUR, record
from tests.billing.journal import settle

ACTOR = Actor("system", "")


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture
def exported(organization, month, calls, journal):
    """The bill as lines. Prices begin long ago in it, since these calls were made after the fact; so it is signed anew."""
    with tenant_scope(organization.id):
        first = bill.header(organization, month, stream=journal.name)
    for each in first["prices"]:
        each["starts_ms"] = 0
    lines = [json.loads(line) for part in bill.lines(organization, month, first) for line in part.splitlines()]
    return sign(lines)


def sign(lines):
    """The lines with the first one signed, by the platform's own key."""
    unsigned = {name: value for name, value in lines[0].items() if name != "signature"}
    lines[0]["signature"] = base64.b64encode(signing_keys().sign(b"bill", canonical(unsigned))).decode()
    return lines


def check(lines, receipts=(), **options):
    return Verifier([json.dumps(line) for line in lines], receipts, **options).run()


def of_type(lines, kind):
    return [line for line in lines if line["type"] == kind]


def test_the_honest_bill_is_right(exported, calls):
    verifier = Verifier([json.dumps(line) for line in exported])

    assert verifier.run() == []
    assert (verifier.seals, verifier.calls) == (3, 18)
    assert verifier.usage == sum(each.nano for each in calls)
    assert exported[0]["usage_nano"] == verifier.usage


def test_the_platforms_rating_is_the_verifiers(exported):
    plan = exported[0]["parts"][0]["plan"] | {
        "monthly_fee": "9.005",
        "included_amount": "0.000002",
        "overage": [{"up_to": "0.00001", "rate": "0.80"}, {"up_to": None, "rate": "0.5"}],
    }
    part = {"plan": plan, "starts_ms": 0, "ends_ms": 7}
    made = [line["amount"] for line in rated(part, "USD", 10**9, 7)]

    assert made == ["9.01", "0.00", "0.00", "0.50"]


@pytest.mark.no_servers
@given(
    st.integers(0, 500 * 10**9), st.integers(0, 100 * 10**6), st.integers(1, 50 * 10**6), st.integers(0, 300 * 10**9),
    st.integers(1, 31 * 86_400_000), st.sampled_from(["USD", "JPY", "KWD"]),
)  # fmt: skip
def test_parts_of_a_month_are_rated_alike(fee, included, bound, usage, length, currency):
    overage = [{"up_to": rating.coins_of_units(bound), "rate": "0.90"}, {"up_to": None, "rate": "0.805"}]
    plan = {"monthly_fee": text_of(fee), "included_amount": rating.coins_of_units(included), "overage": overage}
    whole = 31 * 86_400_000
    tariff = rating.Tariff.parse(
        currency=currency, monthly_fee=plan["monthly_fee"], included_amount=plan["included_amount"], tiers=overage
    )
    ours = rating.month(rating.part_of(tariff, length, whole), usage)

    part = {"plan": plan, "starts_ms": 5, "ends_ms": 5 + length}
    theirs = rated(part, currency, usage, whole)

    assert [(line["kind"], line["amount"]) for line in theirs] == [
        (line.kind, rating.coins(line.amount, currency)) for line in ours.lines
    ]
    assert [line["usage"] for line in theirs if "usage" in line] == [
        rating.coins_of_units(line.units) for line in ours.lines if line.kind != "fee"
    ]
    assert [line["rate"] for line in theirs if "rate" in line] == [
        rating.rate_text(line.rate) for line in ours.lines if line.kind == "tier"
    ]


@pytest.mark.no_servers
def test_memory_does_not_grow_with_the_calls():
    def peak(hours):
        calls = Calls()
        tracemalloc.start()
        with calls:
            for hour in range(hours):
                for number in range(2_000):
                    calls.add(f"{hour:016x}{number:016x}", is_in_order=True)
                calls.end_run()
            calls.add(f"{1:032x}", is_in_order=False)
            found = list(calls.twice())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, found

    (few, once), (many, again) = peak(5), peak(50)
    assert once == again == [f"{1:032x}"]
    assert many < few + 45 * 2_000  # bytes: less than one for each further call


@pytest.mark.no_servers
def test_a_call_that_is_in_order_in_two_seals_is_found():
    calls = Calls()
    with calls:
        for run in ((1, 2, 3), (2, 4), (3, 5)):
            for number in run:
                calls.add(f"{number:032x}", is_in_order=True)
            calls.end_run()
        assert list(calls.twice()) == [f"{2:032x}", f"{3:032x}"]


def drop(kind, place=0):
    def change(lines):
        lines.remove(of_type(lines, kind)[place])

    return change


def edit(kind, place=0, **values):
    def change(lines):
        line = of_type(lines, kind)[place]
        line[kind] |= values

    return change


def header_edit(**values):
    def change(lines):
        lines[0] |= values

    return change


def added(lines):
    calls = of_type(lines, "call")
    new = json.loads(json.dumps(calls[0]))
    new["call"]["call"] = new["call"]["call"][:-1] + ("0" if new["call"]["call"][-1] != "0" else "1")
    lines.insert(lines.index(calls[0]) + 1, new)


def doubled(lines):
    calls = of_type(lines, "call")
    lines.insert(lines.index(calls[0]), calls[0])


def doubled_elsewhere(lines):
    calls = of_type(lines, "call")
    lines.append(calls[0])


def reordered(lines):
    first, second, third = (lines.index(seal) for seal in of_type(lines, "seal"))
    lines[first:] = lines[second:third] + lines[first:second] + lines[third:]


def forged_seal(lines):
    seal = of_type(lines, "seal")[1]
    other = SigningKeys({1: bytes(range(32))})
    seal["signature"] = base64.b64encode(other.sign(b"seal", canonical(seal["seal"]))).decode()


def broken_chain(lines):
    seal = of_type(lines, "seal")[1]
    seal["seal"]["prev_seal"] = "00" * 32
    seal["signature"] = base64.b64encode(signing_keys().sign(b"seal", canonical(seal["seal"]))).decode()


def cheaper_price(lines):
    for each in lines[0]["prices"]:
        each["row_nano"] += 1


def bigger_fee(lines):
    lines[0]["parts"][0]["plan"]["monthly_fee"] = "5.00"


def bigger_fee_signed(lines):
    bigger_fee(lines)
    sign(lines)


def moved_part(lines):
    lines[0]["parts"][0]["ends_ms"] -= 3_600_000
    sign(lines)


def other_part_signed(lines):
    lines[0]["parts"][0]["usage_nano"] -= 1
    sign(lines)


def other_total_signed(lines):
    lines[0]["total"] = "1.00"
    sign(lines)


def other_usage_signed(lines):
    lines[0]["usage_nano"] += 1
    sign(lines)


def swapped_calls(lines):
    first, second = of_type(lines, "call")[:2]
    at, other = lines.index(first), lines.index(second)
    lines[at], lines[other] = second, first


def no_price(lines):
    lines[0]["prices"] = [each for each in lines[0]["prices"] if not each["row_nano"]]


TAMPERINGS = {
    "a call is removed": (drop("call"), "5 calls, 4 are listed"),
    "the last call is removed": (drop("call", -1), "8 calls, 7 are listed"),
    "a call is added": (added, "5 calls, 6 are listed"),
    "a call is doubled": (doubled, "is listed twice"),
    "a call is doubled in another hour": (doubled_elsewhere, "is listed twice"),
    "two calls are swapped": (swapped_calls, "is out of order"),
    "rows are changed": (edit("call", rows=7), "its price and units give"),
    "compute time is changed": (edit("call", compute_us=10**6), "its price and units give"),
    "an amount is changed": (edit("call", amount_nano=999), "costs 999 nano, its price and units give"),
    "a reversed call is charged": (edit("call", -2, amount_nano=1), "calls do not give its root"),
    "a call is put into another month's price": (edit("call", price_version=10**6), "a price that is not in the bill"),
    "the hash of an answer is changed": (edit("call", digests="00"), "its calls do not give its root"),
    "a call of another organization": (edit("call", tenant="f" * 32), "is another organization's"),
    "a price is changed": (cheaper_price, "does not fit its signature"),
    "a price is removed": (no_price, "a price that is not in the bill"),
    "a seal is removed": (drop("seal", 1), "is missing before seal"),
    "the last seal is removed": (drop("seal", 2), "the last seal should be"),
    "seals are reordered": (reordered, "out of order"),
    "a seal's root is changed": (edit("seal", merkle_root="ab" * 32), "its signature is wrong"),
    "a seal's amount is changed": (edit("seal", amount_nano=1), "it says 1"),
    "a seal's hour is changed": (edit("seal", hour="2021-01-01T00:00:00Z"), "its signature is wrong"),
    "a seal is signed by somebody else": (forged_seal, "its signature is wrong"),
    "the chain is cut and signed again": (broken_chain, "does not continue the chain"),
    "a seal of another organization": (edit("seal", tenant="f" * 32), "it is another organization's"),
    "the plan's fee is changed": (bigger_fee, "does not fit its signature"),
    "the plan's fee is changed and signed again": (bigger_fee_signed, "rating of part 1: the bill has"),
    "a part of the month is cut": (moved_part, "the parts of the month end before it, or after"),
    "the usage of a part is changed": (other_part_signed, "part 1: usage_nano: the bill says"),
    "the total is changed": (header_edit(total="0.00000001"), "total: the bill says"),
    "the total is changed and signed again": (other_total_signed, "total: the bill says 1.00"),
    "the usage is changed and signed again": (other_usage_signed, "usage_nano: the bill says"),
    "the number of calls is changed": (header_edit(calls=17), "calls: the bill says 17, its lines give 18"),
    "a line of another kind is added": (lambda lines: lines.append({"type": "gift"}), "a line of an unknown type"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_found_and_named(exported, name):
    change, said = TAMPERINGS[name]
    change(exported)

    problems = check(exported)

    assert [problem for problem in problems if said in problem], problems


@pytest.fixture
def receipt_of():
    def make(made, **changed):
        for field, value in changed.items():
            setattr(made, field, value)
        return receipts.signed(statement_of(made, currency="USD")).decode()

    return make


def test_receipts_of_calls_on_the_bill_are_right(exported, calls, receipt_of):
    assert check(exported, [receipt_of(made) for made in calls if made.kind == "usage"]) == []


def test_a_call_that_has_a_receipt_and_is_missing_is_named(exported, organization, price, first_hour, receipt_of):
    missing = record(organization, price, first_hour)

    [problem] = check(exported, [receipt_of(missing)])

    assert f"call {missing.call} has a receipt and is not on the bill" in problem


def test_a_call_that_is_not_as_its_receipt_says_is_named(exported, calls, receipt_of):
    [problem] = check(exported, [receipt_of(calls[3], rows=1, nano=1)])

    assert f"call {calls[3].call} is not what its receipt says: amount_nano, rows" in problem


def test_a_receipt_whose_call_was_taken_back_is_valid_and_unbilled(exported, calls, receipt_of):
    gone = next(made for made in calls if made.kind == "reversed")
    verifier = Verifier([json.dumps(line) for line in exported], [receipt_of(gone, kind="usage", nano=1234, compute_us=50)])

    assert verifier.run() == []
    assert verifier.notes == [f"call {gone.call} has a valid receipt and was taken back: it is not billed"]


def test_forged_and_foreign_receipts_are_named(exported, organization, calls, price, first_hour, receipt_of):
    version, stated, signature = receipt_of(calls[0]).split(".")
    forged = f"{version}.{stated}.{signature[:-4]}AAAA"
    foreign = receipt_of(record(organization, price, first_hour, tenant=uuid7().hex))

    problems = check(exported, [forged, "nonsense", foreign])

    assert "receipt 1 (call" in problems[0]
    assert "receipt 2 is none" in problems[1]
    assert "another organization's" in problems[2]


def test_with_keys_that_were_kept_a_bill_signed_anew_by_another_is_found(exported):
    kept = exported[0]["keys"]
    thief = SigningKeys({1: bytes(range(32))})
    exported[0]["keys"] = {"1": base64.b64encode(thief.public()[1]).decode()}
    unsigned = {name: value for name, value in exported[0].items() if name != "signature"}
    exported[0]["signature"] = base64.b64encode(thief.sign(b"bill", canonical(unsigned))).decode()
    for seal in of_type(exported, "seal"):
        seal["signature"] = base64.b64encode(thief.sign(b"seal", canonical(seal["seal"]))).decode()

    assert check(exported) == []
    assert len(check(exported, keys=kept)) == 4


@pytest.mark.parametrize("lines", [[], ["{}"], ["no json"], ['{"type": "call"}']])
def test_what_is_no_bill_is_not_read(lines):
    with pytest.raises(Unreadable):
        Verifier(lines).run()


def test_the_file_runs_alone_and_says_by_its_status(exported, calls, receipt_of, tmp_path):
    file, kept = tmp_path / "bill.ndjson", tmp_path / "receipts"
    file.write_text("".join(json.dumps(line) + "\n" for line in exported))
    kept.write_text(receipt_of(calls[0]) + "\n")
    (tmp_path / "verify_bill.py").write_bytes((ROOT / "billing" / "verify_bill.py").read_bytes())

    def run(*arguments):
        command = [sys.executable, "-I", "verify_bill.py", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    right = run(file, "--receipts", kept)
    assert (right.returncode, right.stderr) == (0, "")
    assert right.stdout.startswith("The bill is right: 18 calls in 3 sealed hours of ")
    exported.remove(of_type(exported, "call")[0])
    file.write_text("".join(json.dumps(line) + "\n" for line in exported))
    wrong = run(file, "--receipts", kept)
    assert wrong.returncode == 1
    assert "made over 5 calls, 4 are listed" in wrong.stdout
    assert "has a receipt and is not on the bill" in wrong.stdout
    file.write_text("{")
    assert run(file).returncode == run(tmp_path / "nothing").returncode == 2


def test_a_late_row_is_on_the_bill_of_its_hour(organization, price, month, calls, journal, state, first_hour, as_role):
    state.delete(journal.name)
    journal.add(record(organization, price, first_hour + 50), at_ms=first_hour + 60)
    metering = as_role("metering")
    metering.execute("UPDATE journal_position SET position = '0-0' WHERE stream = %s", [journal.name])
    settle(state, journal.name)
    metering.execute("UPDATE seal_progress SET hour = to_timestamp(0) WHERE stream = %s", [journal.name])
    sealer = Sealer(state, stream=journal.name)
    while sealer.step():
        pass
    sealer.close()

    with tenant_scope(organization.id):
        first = bill.header(organization, month, stream=journal.name)
    for each in first["prices"]:
        each["starts_ms"] = 0
    lines = sign([json.loads(line) for part in bill.lines(organization, month, first) for line in part.splitlines()])

    assert check(lines) == []
    assert [line["seal"]["seq"] for line in of_type(lines, "seal")] == [0, 0, 0, 1]
    assert first["calls"] == 19


# --- the API


def test_it_is_streamed_to_who_may_see_it(client_of, make_key, organization, calls, month):
    _, key = make_key(organization)
    response = client_of(key).get("/api/v1/billing/bill", {"format": "ndjson", "month": str(month)})

    assert response.status_code == 200
    assert response["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in b"".join(response.streaming_content).splitlines()]
    assert lines[0]["month"] == str(month)
    assert lines[0]["tenant"] == organization.id.hex
    assert len(of_type(lines, "call")) == 18


def test_a_stranger_gets_an_own_bill_of_nothing(client_of, charlie, calls):
    response = client_of(charlie).get("/api/v1/billing/bill", HTTP_ACCEPT="application/x-ndjson")

    lines = [json.loads(line) for line in b"".join(response.streaming_content).splitlines()]
    assert [line["type"] for line in lines] == ["bill"]
    assert check(lines) == []
    assert UUID(lines[0]["tenant"]) == charlie.organization.id


def test_as_json_it_is_the_first_line_alone(client_of, alice, month):
    shown = client_of(alice).get("/api/v1/billing/bill", {"month": str(month)}).json()

    assert (shown["type"], shown["month"], shown["parts"][0]["lines"], shown["total"]) == ("bill", str(month), [], "0.00")
    assert check([shown]) == []


@pytest.mark.parametrize("month", ["2026-13", "november", "2026-11-01", "0001-01", "2026-1", "9999999"])
def test_what_is_no_month_is_refused(client_of, alice, month):
    response = client_of(alice).get("/api/v1/billing/bill", {"month": month})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "month"


@pytest.mark.parametrize("role", ["admin", "developer", "viewer"])
def test_only_owner_and_billing_see_bills(client_of, make_user, join, alice, role):
    assert client_of(join(make_user("x"), alice.organization, role)).get("/api/v1/billing/bill").status_code == 403
    assert client_of(join(make_user("y"), alice.organization, "billing")).get("/api/v1/billing/bill").status_code == 200


def test_the_month_is_billed_in_parts_by_the_plans_that_were_in_force(organization, month, calls, journal, first_hour):
    """A change in the middle of a sealed hour: each call is billed by the plan of the moment at which it was closed."""
    change = datetime.fromtimestamp((first_hour + HOUR + 250) / 1000, UTC)
    plans.change(organization.id, "pay-as-you-go", actor=ACTOR)
    with as_operator():
        Subscription.objects.of(organization).current().update(since=change)

    with tenant_scope(organization.id):
        first = bill.header(organization, month, stream=journal.name)
    for each in first["prices"]:
        each["starts_ms"] = 0
    lines = sign([json.loads(line) for part in bill.lines(organization, month, first) for line in part.splitlines()])

    before = sum(each.nano for each in calls if each.closed_ms < first_hour + HOUR + 250)
    free, paid = first["parts"]
    assert (free["plan"]["plan"], free["usage_nano"]) == ("free", before)
    assert (paid["plan"]["plan"], paid["usage_nano"]) == ("pay-as-you-go", sum(each.nano for each in calls) - before)
    assert 0 < before < sum(each.nano for each in calls)
    assert check(lines) == []
    lines[0]["parts"][0]["ends_ms"] = lines[0]["parts"][1]["starts_ms"] = first_hour + HOUR
    assert [problem for problem in check(sign(lines)) if "part 1: usage_nano" in problem]
