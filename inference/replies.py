"""How a worker's replies travel: small ones in one message per gateway, each large one kept until its gateway fetches it."""

from collections.abc import Iterable
from pathlib import Path

from inference.lane_connection import pack_command
from inference.lanes import Reply, Work, kept_key, pack_replies, replies_channel

KEEP = Path(__file__).with_name("keep.lua").read_bytes()
LARGE_REPLY = 32 << 10  # bytes, packed; smaller ones to all calls of a gateway (8192) stay below the server's limit of 256 MiB
MOST_KEPT = 256 << 20  # bytes, for one gateway
KEPT_SECONDS = 120  # longer than any deadline
NO_ROOM = "Too many large answers wait for the gateway; nothing was charged"


def messages(answers: Iterable[tuple[str, Reply]]) -> list[tuple[str, bytes]]:
    """One (channel, message) per gateway, from (gateway, reply)."""
    by_gateway: dict[str, list[Reply]] = {}
    for gateway, reply in answers:
        by_gateway.setdefault(gateway, []).append(reply)
    return [(replies_channel(gateway), pack_replies(replies)) for gateway, replies in by_gateway.items()]


def publish(answers: Iterable[tuple[Work, Reply]]) -> list[bytes]:
    """The packed commands that bring the replies to the gateways."""
    by_gateway: dict[str, list[tuple[Work, Reply]]] = {}
    for answer in answers:
        by_gateway.setdefault(answer[0].gateway, []).append(answer)
    return [command for gateway, mine in by_gateway.items() for command in _commands(gateway, mine)]


def _commands(gateway: str, answers: list[tuple[Work, Reply]]) -> list[bytes]:
    message = pack_replies([reply for _, reply in answers])
    if len(message) <= LARGE_REPLY:
        return [pack_command(("PUBLISH", replies_channel(gateway), message))]
    small: list[Reply] = []
    commands: list[bytes] = []
    for work, reply in answers:
        packed = pack_replies([reply])
        if len(packed) <= LARGE_REPLY:
            small.append(reply)
        else:
            commands.append(_keep(work, packed))
    if small:
        commands.insert(0, pack_command(("PUBLISH", replies_channel(gateway), pack_replies(small))))
    return commands


def _keep(work: Work, packed: bytes) -> bytes:
    """The whole script each time: a worker's connection does not hear which of its commands failed."""
    refused = Reply(work.number, "capacity_exhausted", NO_ROOM)
    refusal = pack_replies([refused])
    refused.is_kept = True  # a gateway from before there were kept replies takes the notice for a refusal, not for an answer
    notice = pack_replies([refused])
    arguments = (replies_channel(work.gateway), str(work.number), work.tenant, packed, notice, refusal)
    return pack_command(("EVAL", KEEP, "1", kept_key(work.gateway), *arguments, str(MOST_KEPT), str(KEPT_SECONDS)))
