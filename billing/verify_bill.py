"""Checks a bill without asking us: python verify_bill.py bill.ndjson [--receipts FILE] [--keys FILE]

The bill is what GET /api/v1/billing/bill?format=ndjson gives. From its calls this recomputes their prices, the leaves and
roots of the hourly seals, the chain and the signatures, the rating by the plans of the month, and the total. `--receipts`: a
file with values of the header X-Maas-Receipt, one a line; each must be on the bill as it says. `--keys`: what
GET /api/v1/billing/signing-keys gave when you first looked; without it the bill's own keys are believed. Prints what is wrong;
the exit status is 1 then, 2 if the bill cannot be read, 0 if all is right. One file, for Python 3.11 and the package
`cryptography`; it needs nothing else.
"""

import argparse
import base64
import hashlib
import heapq
import json
import mmap
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Statement = dict[str, Any]  # Any: JSON
COIN_DECIMALS = {"BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3} | dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0
)
MOST_SHOWN = 100
ID_BYTES, MOST_STRAYS = 16, 100_000


class Unreadable(Exception):
    """The file is no bill."""


class Calls:
    """The ids of all calls, 16 bytes each, in a file that nobody sees: however many there are, memory does not grow.

    Those of one seal come in order and make a run; `twice` goes through all runs side by side.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.ends, self.size = [0], 0
        self.strays: set[bytes] = set()  # out of order, each a problem already

    def __enter__(self) -> None:
        self.file = tempfile.TemporaryFile()

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, identity: str, *, is_in_order: bool) -> None:
        """Raises ValueError if it is no id."""
        packed = UUID(hex=identity).bytes
        if is_in_order:
            assert self.file is not None
            self.file.write(packed)
            self.size += ID_BYTES
        elif len(self.strays) < MOST_STRAYS:
            self.strays.add(packed)

    def end_run(self) -> None:
        if self.size > self.ends[-1]:
            self.ends.append(self.size)

    def twice(self) -> Iterator[str]:
        """The ids that are there more than once, by id."""
        self.end_run()
        if not self.size:
            return
        assert self.file is not None
        self.file.flush()
        with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as ids:
            last = b""
            for packed in heapq.merge(*(self._run(ids, *ends) for ends in pairwise(self.ends))):
                if packed == last or packed in self.strays:
                    yield packed.hex()
                    self.strays.discard(packed)
                last = packed

    @staticmethod
    def _run(ids: mmap.mmap, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, ID_BYTES):
            yield ids[at : at + ID_BYTES]


def canonical(statement: Statement) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


class Tree:
    """The Merkle root of leaves that come one after the other (RFC 9162, 2.1.1)."""

    def __init__(self) -> None:
        self.size, self.peaks = 0, list[bytes]()

    def add(self, statement: bytes) -> None:
        self.peaks.append(hashlib.sha256(b"\x00" + statement).digest())
        self.size += 1
        size = self.size
        while size % 2 == 0:
            right, left, size = self.peaks.pop(), self.peaks.pop(), size // 2
            self.peaks.append(hashlib.sha256(b"\x01" + left + right).digest())

    def root(self) -> str:
        found = self.peaks[-1] if self.peaks else hashlib.sha256(b"").digest()
        for peak in reversed(self.peaks[:-1]):
            found = hashlib.sha256(b"\x01" + peak + found).digest()
        return found.hex()


class Verifier:
    """Reads a bill line by line; `problems` says what is wrong with it, `notes` what is odd and right."""

    def __init__(self, lines: Iterable[str], receipts: Iterable[str] = (), keys: dict[str, str] | None = None) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.lines = self._parsed(lines)
        self.bill = next(self.lines, {})
        if self.bill.get("type") != "bill" or self.bill.get("format") != 3:
            raise Unreadable("its first line is not that of a bill of format 3")
        self.keys = keys or self.bill["keys"]
        self.prices = {price["version"]: price for price in self.bill["prices"]}
        self.receipts = self._opened(receipts)
        self.seal: Statement | None = None
        self.tree, self.amount, self.last_call = Tree(), 0, ""
        self.is_listed = False  # whether the seal's calls follow: it is of this month
        self.number, self.digest = 0, ""
        self.seals, self.calls, self.usage, self.seen = 0, 0, 0, Calls()
        self.used = [0] * len(self.bill["parts"])  # by the calls of each part of the month
        self.hour_ms = 0  # when the seal's hour begins

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def run(self) -> list[str]:
        """All problems; none if the bill is right. Once only."""
        with self.seen:
            return self._run()

    def _run(self) -> list[str]:
        self._check_header()
        for line in self.lines:
            if line.get("type") == "seal":
                self._end_seal()
                self._begin_seal(line)
            elif line.get("type") == "call":
                self._call(line["call"])
            else:
                self.problem(f"a line of an unknown type: {line.get('type')!r}")
        self._end_seal()
        for identity in self.seen.twice():
            self.problem(f"call {identity} is listed twice")
        self._check_totals()
        for call, receipt in self.receipts.items():
            self._missing(call, receipt)
        return self.problems

    # --- header and totals

    def _check_header(self) -> None:
        signed = {name: value for name, value in self.bill.items() if name != "signature"}
        if not self._is_signed(self.bill["key"], b"bill", canonical(signed), self.bill["signature"]):
            self.problem("the bill's first line (plans, prices, totals) does not fit its signature: it was changed")

    def _check_totals(self) -> None:
        bill = self.bill
        found = {"seals": self.seals, "calls": self.calls, "usage_nano": self.usage}
        for name, value in found.items():
            if bill[name] != value:
                self.problem(f"{name}: the bill says {bill[name]}, its lines give {value}")
        if bill["seals"] and (self.number, self.digest) != (bill["last"], bill["last_seal"]):
            self.problem(f"the last seal should be {bill['last']} ({bill['last_seal'][:16]}…), it is {self.number}")
        self._check_parts(bill)
        total = sum((Decimal(line["amount"]) for part in bill["parts"] for line in part["lines"]), Decimal(0))
        if Decimal(bill["total"]) != total:
            self.problem(f"total: the bill says {bill['total']}, it should be {total}")

    def _check_parts(self, bill: Statement) -> None:
        """Each part of the month is rated by its plan, in proportion to its length."""
        start, end = _month(bill["month"])
        for number, (part, used) in enumerate(zip(bill["parts"], self.used, strict=True), 1):
            if part["starts_ms"] != start or part["ends_ms"] <= start:
                self.problem(f"part {number}: it does not begin where the one before ends")
            start = part["ends_ms"]
            if part["usage_nano"] != used:
                self.problem(f"part {number}: usage_nano: the bill says {part['usage_nano']}, its calls give {used}")
            lines = rated(part, bill["currency"], used, end - _month(bill["month"])[0])
            if lines != part["lines"]:
                said, found = json.dumps(part["lines"]), json.dumps(lines)
                self.problem(f"rating of part {number}: the bill has {said}, the plan and the usage give {found}")
        if start != end:
            self.problem("the parts of the month end before it, or after")

    # --- seals

    def _begin_seal(self, line: Statement) -> None:
        seal = self.seal = line["seal"]
        name, digest = self._seal_name(), hashlib.sha256(canonical(seal)).hexdigest()
        if not self._is_signed(line["key"], b"seal", canonical(seal), line["signature"]):
            self.problem(f"{name}: its signature is wrong")
        if seal["tenant"] != self.bill["tenant"]:
            self.problem(f"{name}: it is another organization's")
        expected = self.number + 1 if self.number else self.bill["first"]
        if seal["number"] > expected:
            self.problem(f"seal {expected} is missing before {name}")
        elif seal["number"] < expected:
            self.problem(f"{name}: it stands after seal {self.number}: seals are repeated or out of order")
        elif self.number and seal["prev_seal"] != self.digest:
            self.problem(f"{name}: it does not continue the chain of seal {self.number}")
        self.is_listed = seal["hour"].startswith(self.bill["month"])
        self.hour_ms = int(datetime.fromisoformat(seal["hour"]).timestamp()) * 1000
        self.number, self.digest = seal["number"], digest
        self.tree, self.amount, self.last_call = Tree(), 0, ""
        self.seals += self.is_listed

    def _end_seal(self) -> None:
        seal = self.seal
        if seal is None or not self.is_listed:
            return
        self.seen.end_run()
        if self.tree.size != seal["n"]:
            self.problem(f"{self._seal_name()}: it was made over {seal['n']} calls, {self.tree.size} are listed")
        if self.tree.root() != seal["merkle_root"]:
            self.problem(f"{self._seal_name()}: its calls do not give its root: one was changed, added or removed")
        if self.amount != seal["amount_nano"]:
            self.problem(f"{self._seal_name()}: its calls cost {self.amount} nano, it says {seal['amount_nano']}")
        self.usage += seal["amount_nano"]

    def _seal_name(self) -> str:
        return f"seal {self.seal['number']} ({self.seal['hour'][:13]}h)" if self.seal else "no seal"

    # --- calls

    def _call(self, call: Statement) -> None:
        identity = call["call"]
        if self.seal is None or not self.is_listed:
            self.problem(f"call {identity} stands under no seal of this month")
            return
        is_in_order = identity > self.last_call
        if not is_in_order:
            self.problem(f"call {identity} is out of order in {self._seal_name()}")
        try:
            self.seen.add(identity, is_in_order=is_in_order)
        except ValueError:
            self.problem(f"call {identity} has no id of a call")
        self.last_call = max(self.last_call, identity)
        self.calls += 1
        self.tree.add(canonical(call))
        self.amount += call["amount_nano"]
        self._count(call)
        if call["tenant"] != self.bill["tenant"]:
            self.problem(f"call {identity} is another organization's")
        self._check_price(call)
        if receipt := self.receipts.pop(identity, None):
            self._compare(call, receipt)

    def _count(self, call: Statement) -> None:
        """A call belongs to its seal's hour, and within it to the moment at which it was closed."""
        moment = min(max(call["closed_ms"], self.hour_ms), self.hour_ms + 3_599_999)
        for place, part in enumerate(self.bill["parts"]):
            if part["starts_ms"] <= moment < part["ends_ms"]:
                self.used[place] += call["amount_nano"]

    def _check_price(self, call: Statement) -> None:
        identity, amount = call["call"], call["amount_nano"]
        price = self.prices.get(call["price_version"])
        if price is None:
            self.problem(f"call {identity} has a price that is not in the bill: version {call['price_version']}")
            return
        due = price["call_nano"] + call["rows"] * price["row_nano"] - (-call["compute_us"] * price["second_nano"] // 10**6)
        if call["kind"] != "usage" or call["mode"] != "live":
            due = 0
        is_right = amount <= due if call["is_clamped"] else amount == due
        if not is_right:
            self.problem(f"call {identity} costs {amount} nano, its price and units give {due}")
        if price["currency"] != call["currency"] or (amount and call["currency"] != self.bill["currency"]):
            self.problem(f"call {identity} is in another currency than its price or the bill")
        if price["starts_ms"] > call["opened_ms"]:
            self.problem(f"call {identity} was opened before its price began")
        if price["model"] not in (None, call["model"]):
            self.problem(f"call {identity} has the price of another model")

    # --- receipts

    def _opened(self, receipts: Iterable[str]) -> dict[str, Statement]:
        found: dict[str, Statement] = {}
        for number, text in enumerate(receipts, 1):
            try:
                key, statement, signature = text.strip().split(".")
                stated = _decoded(statement)
                receipt = json.loads(stated)
                is_signed = self._is_signed(key, b"receipt", stated, base64.b64encode(_decoded(signature)).decode())
            except ValueError:
                self.problem(f"receipt {number} is none")
                continue
            if not is_signed:
                self.problem(f"receipt {number} (call {receipt.get('call')}) was not signed by the service")
            else:
                found[receipt["call"]] = receipt
        return found

    def _compare(self, call: Statement, receipt: Statement) -> None:
        if call == receipt:
            return
        if call["kind"] == "reversed" and call["amount_nano"] == 0:
            self.notes.append(f"call {call['call']} has a valid receipt and was taken back: it is not billed")
            return
        wrong = sorted(name for name in receipt if receipt[name] != call.get(name))
        self.problem(f"call {call['call']} is not what its receipt says: {', '.join(wrong)}")

    def _missing(self, call: str, receipt: Statement) -> None:
        if receipt["tenant"] != self.bill["tenant"]:
            self.problem(f"the receipt of call {call} is another organization's")
        else:
            self.problem(
                f"call {call} has a receipt and is not on the bill (another month's, or after {self.bill['sealed_until']}?)"
            )

    # --- reading

    def _is_signed(self, version: Any, purpose: bytes, statement: bytes, signature: str) -> bool:  # Any: as the file has it
        key = self.keys.get(str(version))
        if key is None:
            return False
        try:
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))
            public.verify(base64.b64decode(signature), purpose + b"\n" + statement)
        except (InvalidSignature, ValueError):
            return False
        return True

    @staticmethod
    def _parsed(lines: Iterable[str]) -> Iterator[Statement]:
        for number, line in enumerate(lines, 1):
            try:
                parsed = json.loads(line)
            except ValueError:
                raise Unreadable(f"line {number} is no JSON: is the file cut?") from None
            if not isinstance(parsed, dict):
                raise Unreadable(f"line {number} is no object")
            yield parsed


def rated(part: Statement, currency: str, usage_nano: int, month_ms: int) -> list[Statement]:
    """The lines of a part of the month: the fee, what is included, and a line for each tier, each rounded once, half up.

    Of the fee, of included usage and of what the rates are below the list price it has the share that the part is of the month;
    a plan without a fee whose rate is always the same has that rate in any part.
    """
    plan, length = part["plan"], part["ends_ms"] - part["starts_ms"]
    units, included = usage_nano // 1000, _share(_millionths(plan["included_amount"]), length, month_ms)
    fee_nano = _share(int(Decimal(plan["monthly_fee"]).scaleb(9)), length, month_ms)
    lines: list[Statement] = []
    if fee_nano:
        lines.append({"kind": "fee", "amount": _charged(Decimal(fee_nano).scaleb(-9), currency)})
    if within := min(units, included):
        lines.append({"kind": "included", "amount": _charged(Decimal(0), currency), "usage": _decimal(within)})
    is_flat = not Decimal(plan["monthly_fee"]) and len({Decimal(tier["rate"]) for tier in plan["overage"]}) <= 1
    lower = included
    for place, tier in enumerate(plan["overage"], 1):
        rate = Decimal(tier["rate"]) if is_flat else _rate_of_part(Decimal(tier["rate"]), length, month_ms)
        bound = None if tier["up_to"] is None else included + _millionths(tier["up_to"])
        upper = units if bound is None else min(units, bound)
        if upper > lower:
            amount = _charged(Decimal(upper - lower).scaleb(-6) * rate, currency)
            line = {"kind": "tier", "amount": amount, "usage": _decimal(upper - lower)}
            lines.append(line | {"tier": place, "rate": f"{rate.normalize():f}"})
            lower = upper
    return lines


def _charged(amount: Decimal, currency: str) -> str:
    """Half up to the smallest coin; of currencies with three decimals to ten of them, as cards are charged."""
    decimals = COIN_DECIMALS.get(currency, 2)
    return str(amount.quantize(Decimal(1).scaleb(-min(decimals, 2)), ROUND_HALF_UP).quantize(Decimal(1).scaleb(-decimals)))


def _share(amount: int, length: int, whole: int) -> int:
    """`length` parts of `whole` of an amount, half up."""
    return (2 * amount * length + whole) // (2 * whole)


def _rate_of_part(rate: Decimal, length: int, whole: int) -> Decimal:
    """The month's rate for `length` parts of `whole`, and the list price for the rest; to eight decimals, half up."""
    one = 10**8
    mixed = one * (whole - length) + int(rate * one) * length
    return Decimal((2 * mixed + whole) // (2 * whole)) / one


def _month(text: str) -> tuple[int, int]:
    """When a month begins and ends, in milliseconds since the epoch."""
    start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return int(start.timestamp()) * 1000, int(end.timestamp()) * 1000


def _millionths(amount: Any) -> int:  # Any: as the file has it
    """The meter counts millionths of the currency unit, whole ones."""
    return int(Decimal(str(amount)).scaleb(6))


def _decimal(units: int) -> str:
    return f"{Decimal(units).scaleb(-6):f}"


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a bill of the model service, offline.")
    parser.add_argument("bill", type=Path)
    parser.add_argument("--receipts", type=Path, help="a file with values of X-Maas-Receipt, one a line")
    parser.add_argument("--keys", type=Path, help="the JSON of /api/v1/billing/signing-keys, from when you first looked")
    options = parser.parse_args(arguments)
    try:
        receipts = options.receipts.read_text().split() if options.receipts else []
        keys = None
        if options.keys:
            keys = {str(key["version"]): key["public_key"] for key in json.loads(options.keys.read_text())["keys"]}
        with options.bill.open() as file:
            verifier = Verifier(file, receipts, keys)
            problems = verifier.run()
    except (OSError, Unreadable, ValueError, KeyError, TypeError, ArithmeticError) as error:
        print(f"The bill cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for note in verifier.notes:
        print(f"note: {note}")
    for problem in problems[:MOST_SHOWN]:
        print(problem)
    if len(problems) > MOST_SHOWN:
        print(f"… and {len(problems) - MOST_SHOWN} more")
    bill = verifier.bill
    if not problems:
        until = "complete" if bill["is_complete"] else f"sealed until {bill['sealed_until']}"
        print(
            f"The bill is right: {verifier.calls} calls in {verifier.seals} sealed hours of {bill['month']} ({until}); "
            f"{bill['total']} {bill['currency']}."
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
