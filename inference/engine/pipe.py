"""What a worker and a customer's child process say to each other: msgpack, nothing that could carry code.

A message is its length as 4 bytes, little-endian, then msgpack. Each question has a fresh nonce and its answer repeats it:
an answer with another one is a late one to someone else's question, and ends the child. An answer comes in parts, so that
what bounds a message bounds one call's outputs and not those of all calls that happened to be asked together.
"""

import socket
import struct
import time

import msgspec

from inference.engine.batch import MAX_OUTPUT
from inference.engine.errors import DeadlineExceeded
from inference.engine.source import ArtifactSource
from inference.lanes import Reply, Work

HEAD = struct.Struct("<I")
PART_BYTES = 1 << 20  # of outputs, from which on a part is sent
ANSWERS_AT_ONCE = 64 << 20  # bytes of outputs; calls beyond them stay unanswered, and are asked again
MAX_PART = MAX_OUTPUT + 2 * PART_BYTES  # a longer one ends the child


class Ask(msgspec.Struct, array_like=True):
    """One question; what is given is done in this order: unload, load, run."""

    nonce: bytes
    unload: list[str] = []  # version ids
    load: ArtifactSource | None = None
    version: str = ""  # which one runs `works`
    works: list[Work] = []
    max_rows: int = 1
    providers: list[str] = []


class Answer(msgspec.Struct, array_like=True):
    """A part of one. `error` says why a version could not be loaded; the number of a reply is its work's place."""

    nonce: bytes
    error: str = ""
    replies: list[Reply] = []
    is_last: bool = True


pack = msgspec.msgpack.Encoder().encode
unpack_ask = msgspec.msgpack.Decoder(Ask).decode
unpack_answer = msgspec.msgpack.Decoder(Answer).decode


def frame(message: bytes) -> bytes:
    return HEAD.pack(len(message)) + message


def receive(connection: socket.socket, *, until: float | None = None, limit: int = (1 << 32) - 1) -> bytes:
    """The next message. `until` is on the monotonic clock: DeadlineExceeded. ConnectionError if the other side ended."""
    (length,) = HEAD.unpack(_exactly(connection, HEAD.size, until))
    if length > limit:
        raise ConnectionError(f"a message of {length} bytes")
    return _exactly(connection, length, until)


def _exactly(connection: socket.socket, count: int, until: float | None) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        if until is not None:
            set_deadline(connection, until)
        try:
            got = connection.recv_into(view)
        except TimeoutError:
            raise DeadlineExceeded("the model did not answer in time") from None
        if not got:
            raise ConnectionError("the other side ended")
        view = view[got:]
    return bytes(data)


def set_deadline(connection: socket.socket, until: float) -> None:
    """Let the next operation end by `until`, on the monotonic clock."""
    left = until - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the model did not answer in time")
    connection.settimeout(left)
