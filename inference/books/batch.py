"""From calls to the arguments of books.lua, and what its verdicts mean."""

from typing import Any

import msgspec

from inference.books.open_call import CLOSE_SENT, OPENING, OpenCall
from inference.books.places import GROUPS, KEYED_CLOSES, PLAIN_CLOSES, STORED_MAX
from saas.lib.valkey import Argument

STORED_TENANT_MAX_BYTES = 64 << 20  # of memory for all stored answers of a tenant
SHARE_OF_ROOM = 8  # it is this part of what is left for all, if that is less

_pack = msgspec.msgpack.Encoder().encode

OPEN_VERDICTS = {
    ord("o"): "open",
    ord("l"): "open",
    ord("u"): "unknown",
    ord("i"): "in_progress",
    ord("r"): "reused",
    ord("p"): "replay",
    ord("f"): "full",
    ord("s"): "quota:stored",
    ord("Q"): "quota:organization",
    ord("q"): "quota:key",
    ord("P"): "included:organization",
    ord("B"): "budget:organization",
    ord("b"): "budget:key",
    ord("C"): "credit:organization",
    ord("c"): "credit:key",
}
NOTED = frozenset(b"plQPBCqbc")  # verdicts that a note belongs to
CLOSE_VERDICTS = {ord("c"): "closed", ord("d"): "done", ord("g"): "gone", ord("b"): "bad"}


class Batch:
    """What travels in one script: its arguments, and the calls in the order of its verdicts."""

    __slots__ = ("arguments", "closes", "opens")

    def __init__(self, closes: list[OpenCall], opens: list[OpenCall], arguments: list[Argument]) -> None:
        self.closes, self.opens, self.arguments = closes, opens, arguments


def share(room: int) -> int:
    """Bytes that a tenant's stored answers may take while `room` are left for all tenants' (-1: no bound is known).

    It shrinks as memory fills, so that many tenants together never leave nothing to the next one (Choudhury and Hahne, "Dynamic
    queue length thresholds for shared-memory packet switches", 1998).
    """
    return STORED_TENANT_MAX_BYTES if room < 0 else min(STORED_TENANT_MAX_BYTES, room // SHARE_OF_ROOM)


def pack_batch(closes: list[OpenCall], opens: list[OpenCall], room: int = -1) -> Batch:
    """What books.lua is told of these calls, which are under way from now on. `room` as for `share`."""
    plain: list[Argument] = []
    keyed: list[Argument] = []
    keyed_closes: list[OpenCall] = []
    plain_closes: list[OpenCall] = []
    for call in closes:
        call.state = CLOSE_SENT
        call.is_close_sent = True
        if call.claim is None:
            plain_closes.append(call)
            plain += (call.call, call.nano, call.outcome or b"")
        else:
            keyed_closes.append(call)
            keyed += (call.call, call.nano, call.outcome or b"", call.claim_key, call.stored, *call.keep_seconds)
    groups: dict[tuple[Any, ...], list[OpenCall]] = {}
    for call in opens:
        call.state = OPENING
        call.is_open_sent = True
        alike = (call.tenant, call.key, call.period, call.max_nano, call.mode, call if call.claim is not None else None)
        if alike in groups:
            groups[alike].append(call)
        else:
            groups[alike] = [call]
    arguments: list[Argument] = [0, 0, 0, 0, *plain, *keyed]
    arguments[STORED_MAX], arguments[GROUPS] = share(room), len(groups)
    arguments[PLAIN_CLOSES], arguments[KEYED_CLOSES] = len(plain_closes), len(keyed_closes)
    ordered: list[OpenCall] = []
    for group in groups.values():
        ordered += group
        _pack_group(group, arguments)
    return Batch(plain_closes + keyed_closes, ordered, arguments)


def _pack_group(group: list[OpenCall], arguments: list[Argument]) -> None:
    """Calls that look alike to the books; one with a claim is always alone."""
    first = group[0]
    tenant, key, period, nano, mode = first.tenant, first.key, first.period, first.max_nano, first.mode
    packed = _pack((tenant, key, period, nano, mode, first.claim_key))
    head = b"%c%b" % (len(packed), packed)
    fingerprint = first.fingerprint if first.claim is not None else b""
    arguments += (len(group), tenant, key, period, nano, mode, first.claim_key, fingerprint)
    for call in group:
        arguments += (call.call, head + call.record)
