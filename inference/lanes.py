"""The lane between gateways and workers: what lies in it, and the names of its keys on the lanes server.

A gateway pushes one `Work` per call; a worker answers with one message per gateway, a list of `Reply`. A large reply is kept
on the server until its gateway fetches it (inference/keep.lua); the message says only that it is there.
"""

from typing import Any

import msgspec

Tensor = tuple[str, str, list[int], bytes]
"""(name, datatype, shape, data): datatype as in the Open Inference Protocol V2 (FP32, BYTES, …), data little-endian,
row-major, without padding; each BYTES element is preceded by its length as 4 bytes, as in that protocol's binary form."""


class Work(msgspec.Struct, array_like=True):
    """One call on its way to a worker. Times are seconds since the epoch."""

    gateway: str  # the session that asks; its replies go to channel replies:{gateway}
    number: int  # the gateway's own number of the call, unique in its session
    call: str  # call id, 32 hexadecimal digits
    tenant: str  # who calls
    owner: str  # whose version it is
    version: str  # version id, 32 hexadecimal digits
    deadline: float
    sent: float
    rows: int
    inputs: list[Tensor] | None = None  # a tensor call, or a friendly one that brings numbers
    outputs: tuple[str, ...] = ()  # requested outputs; () means all
    # A friendly call: image files (bytes, or base64 in a str) or texts (str); one item is one row. Any, because msgspec
    # takes no union of bytes and str; the engine refuses everything else.
    items: list[Any] | None = None
    top: int = 0  # a friendly call: how many labels to return per row, 0 for one; with `inputs` it must be 1 or more
    is_suspect: bool = False  # a process died while it ran this and others: it is run alone
    prepare_us: float = 0.0  # what the preparation of `items` is expected to take, in microseconds
    is_slow: bool = False  # it waits in the slow lane
    is_public: bool = False  # it asks a model of the catalogue


class Prediction(msgspec.Struct):
    label: str
    confidence: float


class Reply(msgspec.Struct, array_like=True):
    """What became of one call. `code` is "" for an answer, else an error code of saas.lib.errors with `message`."""

    number: int
    code: str = ""
    message: str = ""
    outputs: list[Tensor] | None = None
    predictions: list[list[Prediction]] | None = None  # a friendly classifier call: per item, best first
    is_finite: bool = True
    queue_us: int = 0  # from `sent` to the start of the run
    compute_us: int = 0  # the call's share, by rows, of its batch's run
    batch_rows: int = 0
    is_kept: bool = False  # only a notice: the reply lies under kept:{gateway}


def bytes_of(reply: Reply) -> int:
    """Of its tensors, which are what makes a reply large."""
    return sum([len(data) for *_, data in reply.outputs or ()])


def lane_key(version: str, *, low: bool = False, slow: bool = False) -> str:
    """A list of a resident version; the low-priority ones (asynchronous work) are taken when the others are empty.

    Calls that are slow each on its own have lists of their own, so that no other waits behind them (inference/slow.py).
    """
    return f"lane:{version}{':slow' if slow else ''}{':low' if low else ''}"


def lane_keys(version: str) -> list[str]:
    """All lists of a version, whether it has slow lanes or not."""
    return [lane_key(version, low=low, slow=slow) for low in (False, True) for slow in (False, True)]


def pool_key(hardware: str, *, low: bool = False) -> str:
    """The list for versions that no worker of this hardware (`cpu`, `gpu`) has loaded yet."""
    return f"pool:{hardware}:low" if low else f"pool:{hardware}"


def resident_key(version: str) -> str:
    """Exists (with a few seconds to live, renewed) while at least one worker has the version loaded and warm."""
    return f"resident:{version}"


def replies_channel(gateway: str) -> str:
    return f"replies:{gateway}"


def kept_key(gateway: str) -> str:
    """The hash of large replies that the gateway has not fetched yet."""
    return f"kept:{gateway}"


def lanes_key(hardware: str) -> str:
    """The set of versions whose lanes may hold work, so that an orphaned lane is found without a scan."""
    return f"lanes:{hardware}"


def worker_key(name: str) -> str:
    """What a worker tells of itself each second, as JSON (`inference.reports.Report`), with a few seconds to live."""
    return f"worker:{name}"


WITHDRAWN = "withdrawn"  # channel: the id of a call that nobody waits for any more, though it may be running
WORKERS = "workers"  # sorted set of worker names, scored with the epoch second until which they are believed alive

pack_work = msgspec.msgpack.Encoder().encode
unpack_work = msgspec.msgpack.Decoder(Work).decode
pack_replies = msgspec.msgpack.Encoder().encode
unpack_replies = msgspec.msgpack.Decoder(list[Reply]).decode
