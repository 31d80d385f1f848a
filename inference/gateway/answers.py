"""Answers between a worker's reply and the caller: rendered, and for an Idempotency-Key sealed, stored and replayed.

What takes long happens beside the loop; every function here tells its callback, at once or later.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from inference.gateway import receipts
from inference.gateway.call import Call, Rendered
from inference.gateway.threads import Thread
from inference.lanes import Reply
from saas.lib import errors
from saas.lib.errors import AppError
from tenants.problems import OUTAGES

log = logging.getLogger(__name__)

LARGE_REPLY = 64 << 10  # bytes of outputs beyond which an answer is rendered in a thread; below, the hop costs more
RANKED_REPLY = 4 << 10  # the same where elements are ranked, each a Python object
LABEL_BYTES = 64  # about
pack_answer, unpack_answer = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Rendered).decode
Outcome = Rendered | AppError


class AnswerStore(Protocol):
    """Where answers for an Idempotency-Key go: sealed with the tenant's key into the books, a too large one into a table.

    `seal` blocks when `is_slow` says so of the packed answer's bytes, and then runs in a thread; `unseal` always does.
    What `is_apart` is in that table.
    """

    def seal(self, call: Call, packed: bytes) -> bytes: ...
    def unseal(self, call: Call, stored: bytes) -> bytes: ...
    def is_slow(self, size: int) -> bool: ...
    def is_apart(self, stored: bytes) -> bool: ...


class Answers:
    """Lives on one event loop. `store` is inference.gateway.stored.Answers in production."""

    def __init__(self, store: AnswerStore) -> None:
        self.store = store
        self._thread = Thread("answers")
        self._apart = Thread("kept")  # on its way to the database a large answer takes ten times its size: one at a time

    def close(self) -> None:
        self._thread.close()
        self._apart.close()

    def render(self, call: Call, reply: Reply, done: Callable[[Call, Outcome], None]) -> None:
        """Make the answer of `call`; `done` gets it, or the AppError that it fails with."""
        size = size_of(reply)
        if size <= (RANKED_REPLY if call.is_ranked else LARGE_REPLY):
            done(call, rendered(call, reply))
            return
        try:
            rendering = self._thread.run(call.key.organization, size, lambda: rendered(call, reply))
        except AppError as error:
            done(call, error)
        else:
            rendering.add_done_callback(lambda made: done(call, made.result()))

    def seal(self, call: Call, answer: Rendered, done: Callable[[Call, Rendered, bytes | AppError], None]) -> None:
        """Make what the books keep of `answer`; `done` gets it, or why it cannot be stored."""
        size = most_packed(answer)
        if not self.store.is_slow(size):
            done(call, answer, self._sealed(call, answer))
            return
        try:
            sealing = self._apart.run(call.key.organization, size, lambda: self._sealed(call, answer))
        except AppError as error:
            done(call, answer, error)
        else:
            sealing.add_done_callback(lambda made: done(call, answer, made.result()))

    def _sealed(self, call: Call, answer: Rendered) -> bytes | AppError:
        try:
            return self.store.seal(call, pack_answer(answer))
        except (errors.LimitReached, errors.Unavailable) as error:
            return error.with_traceback(None)  # its frames hold the answer
        except Exception as error:  # a key that does not open, for example: this call fails, the others go on
            _tell(call, "stored", error)
            return errors.Unavailable("The answer could not be stored; nothing was charged", retry_after=1)

    def unseal(self, call: Call, stored: bytes, done: Callable[[Call, Outcome], None]) -> None:
        """Read what an earlier call with this key stored; `done` gets that answer, or an AppError."""
        reading: asyncio.Future[Outcome]
        if self.store.is_apart(stored):
            try:
                reading = self._apart.run(call.key.organization, 0, lambda: self._unsealed(call, stored))
            except AppError as error:
                done(call, error)
                return
        else:
            reading = asyncio.get_running_loop().run_in_executor(None, self._unsealed, call, stored)
        reading.add_done_callback(lambda made: done(call, made.result()))

    def _unsealed(self, call: Call, stored: bytes) -> Outcome:
        try:
            return unpack_answer(self.store.unseal(call, stored))
        except Exception as error:  # whatever the database's driver or the keys say, the caller's answer is the same: not now
            _tell(call, "read", error)
            return errors.Unavailable("The stored answer cannot be read right now", retry_after=1)


def _tell(call: Call, what: str, error: Exception) -> None:
    """Log it: with a traceback, unless a server is away, which each replay would repeat."""
    reason = str(error).partition("\n")[0]
    trace = None if isinstance(error, OUTAGES) else error
    log.error("the answer of call %s could not be %s: %s: %s", call.id, what, type(error).__name__, reason, exc_info=trace)


def most_packed(answer: Rendered) -> int:
    """Bytes of `answer` packed, at most: MessagePack puts five before a value at most."""
    return len(answer.body) + sum([len(name) + len(value) + 15 for name, value in answer.headers]) + 20


def size_of(reply: Reply) -> int:
    """Bytes of what the model gave."""
    if reply.predictions:
        return len(reply.predictions) * len(reply.predictions[0]) * LABEL_BYTES
    return sum([len(output[3]) for output in reply.outputs or ()])


def rendered(call: Call, reply: Reply) -> Outcome:
    """The call's answer; a fault of ours is logged and told as one."""
    try:
        answer = call.render(call, reply)
        if call.input_digest:
            call.output_digest = receipts.digest(answer.body)
        return answer
    except AppError as error:
        return error
    except Exception:
        log.exception("the answer of call %s could not be rendered, request %s", call.id, call.request_id)
        return errors.InternalError()
