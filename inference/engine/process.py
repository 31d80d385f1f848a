"""The worker's side of one child process of an organization: started clean, asked one thing at a time, killed when late."""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from inference.engine.errors import (
    DeadlineExceeded,
    EngineError,
    MemoryExhausted,
    ModelUnavailable,
    OutOfMemory,
    ProcessDied,
    ProcessEnded,
)
from inference.engine.pipe import ANSWERS_AT_ONCE, MAX_PART, Answer, Ask, frame, pack, receive, set_deadline, unpack_answer
from inference.engine.source import ArtifactSource, size_of
from inference.engine.tensors import check_output
from inference.lanes import Reply, Work, bytes_of

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
sys.path.insert(0, sys.argv[1])
from inference.engine.child import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "ORT_DISABLE_TELEMETRY": "1"}
LOAD_SECONDS = 30.0
BASE_BYTES = 64 << 20  # of a process without models: 30 MiB measured, the rest for ordinary calls
LOAD_COPIES = 3  # of the file, while it is loaded: as a message, as the library's own, and as weights that are being rearranged
UNWANTED_SECONDS = 1.0  # a run that nobody waits for may take so long, since a new process costs about as much
CODES = frozenset(
    {"", "deadline_exceeded", "invalid_request", "invalid_tensor", "model_failed", "output_not_finite", "output_too_large"}
)  # that a child may answer with


class Child:
    """One organization's process. Threads may ask at the same time; they take turns.

    `on_ended` is called once, by the thread that noticed, when it ended without being closed.
    """

    def __init__(
        self,
        owner: str,
        folder: Path,
        *,
        memory_bytes: int,
        is_low: bool = False,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        on_ended: "Callable[[Child], None] | None" = None,
        withdrawn: Container[str] = (),
    ) -> None:
        """Must be called by a thread that lives as long as the child shall: the kernel kills it when that thread ends."""
        self.owner, self.is_low, self.providers, self._on_ended = owner, is_low, list(providers), on_ended
        self._withdrawn = withdrawn  # calls that nobody waits for any more; they may be told before they come here
        self.versions: set[str] = set()
        self.last_used = time.monotonic()
        self.is_ended = False
        self.has_died = False  # ended by what it ran, not by us
        self.given: dict[str, int] = {}  # bytes of the budget, by version: loaded ones and those about to be
        self.loading: set[str] = set()  # of these, those about to be
        self.held = 0  # bytes that it was seen to hold
        self._over_memory = ""  # why it was ended, if for that
        self._to_unload: list[str] = []
        self._runs: dict[object, set[str]] = {}  # under way: their calls that somebody waits for
        self._lock = threading.Lock()  # held while a question is under way
        self._closing = threading.Lock()
        self._connection, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, str(ROOT), str(os.getpid()), str(memory_bytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=ENVIRONMENT,
                close_fds=True,
                start_new_session=True,
            )

    @property
    def is_busy(self) -> bool:
        return self._lock.locked() or bool(self.loading)

    @property
    def taken(self) -> int:
        """Bytes that it counts: what it was given, or what it holds if that is more."""
        return max(self._given_bytes, self.held)

    @property
    def excess(self) -> int:
        """Bytes that it holds beyond what it was given."""
        return max(0, self.held - self._given_bytes)

    @property
    def _given_bytes(self) -> int:
        return BASE_BYTES + sum(list(self.given.values()))

    def give(self, source: ArtifactSource) -> None:
        """Count what loading a version takes; `load`, which must follow, makes it what a loaded one holds."""
        self.given[source.version] = needs_to_load(source)
        self.loading.add(source.version)

    def load(self, source: ArtifactSource, max_rows: int) -> None:
        """Load and warm a version. Raises ModelUnavailable with the reason, ProcessEnded if another process should be asked."""
        self.versions.add(source.version)  # from now on, so that another's unload does not end the process
        try:
            answer = self._ask(Ask(b"", load=source, max_rows=max_rows), time.monotonic() + LOAD_SECONDS)
            if answer.error:
                raise ModelUnavailable(answer.error)
            self.given[source.version] = holds_loaded(source)
        except ProcessEnded:
            raise
        except OutOfMemory as error:
            raise MemoryExhausted(f"the model could not be loaded: {error}") from None
        except EngineError as error:
            self.versions.discard(source.version)
            self.given.pop(source.version, None)
            raise ModelUnavailable(f"the model could not be loaded: {error}") from None
        finally:
            self.loading.discard(source.version)

    def unload(self, version: str) -> None:
        """Forget a version: with the next question, or by ending a process that has no other."""
        self.versions.discard(version)
        self.given.pop(version, None)
        if not self.versions:
            self.close()
        else:
            self._to_unload.append(version)

    def run(self, version: str, works: Sequence[Work], max_rows: int, until: float) -> list[Reply | None]:
        """One Reply per call, None for those that are to be asked again, because the answers before them are very large.

        `until` (monotonic): nobody waits any longer, the process is killed. Raises DeadlineExceeded, ProcessEnded if others
        ended it and, if it died or answered nonsense, ProcessDied.
        """
        bare = [  # a customer's model need not know who asks, nor through which gateway
            Work("", place, "", "", "", version, work.deadline, 0, work.rows, work.inputs, work.outputs, work.items, work.top)
            for place, work in enumerate(works)
        ]
        began = time.monotonic()
        with self._run_of({work.call for work in works}):
            answer = self._ask(Ask(b"", version=version, works=bare, max_rows=max_rows), until)
        most_us = int((time.monotonic() - began) * 1e6) + 1
        replies: list[Reply | None] = [None] * len(works)
        for reply in answer.replies:
            place = reply.number
            reply.number = works[place].number
            reply.compute_us = min(max(reply.compute_us, 0), most_us)  # a customer's process may say anything
            reply.batch_rows = min(max(reply.batch_rows, 0), max(max_rows, works[place].rows))
            replies[place] = reply
        return replies

    @contextmanager
    def _run_of(self, calls: set[str]) -> Iterator[None]:
        """While it lasts the calls may be withdrawn. Raises DeadlineExceeded if that ended the process, or all were before."""
        run = object()
        self._runs[run] = calls
        try:
            unwanted = [call for call in calls if call in self._withdrawn]
            calls.difference_update(unwanted)
            if unwanted and not calls:
                raise DeadlineExceeded("nobody waited for the call any more")
            yield
        except ProcessEnded:
            if not calls:
                raise DeadlineExceeded("nobody waited for the call any more") from None
            raise
        finally:
            del self._runs[run]

    def withdraw(self, call: str) -> None:
        """Nobody waits for `call` any more. A run of which nobody waits for any call is ended, with the process."""
        for run, calls in list(self._runs.items()):
            if call in calls:
                calls.discard(call)
                if not calls:
                    ending = threading.Timer(UNWANTED_SECONDS, self._end_unwanted, [run])
                    ending.daemon = True
                    ending.start()

    def _end_unwanted(self, run: object) -> None:
        """If it ends just now by itself, the process is lost for nothing, and a run that follows is run again in the next."""
        if run in self._runs:
            self.kill()

    def _ask(self, ask: Ask, until: float) -> Answer:
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise DeadlineExceeded("the model was busy until the deadline")
        try:
            self.last_used = time.monotonic()
            return self._exchange(ask, until)
        except (OSError, EngineError) as error:
            if isinstance(error, ProcessEnded):  # before it was asked
                failure: EngineError = error
            elif self._over_memory:
                failure = OutOfMemory(self._over_memory)
            elif self.is_ended:  # by another thread: evicted, or the worker is ending
                failure = ProcessEnded("the model's process was stopped; try again")
            elif isinstance(error, EngineError):
                failure = error
            else:
                failure = self._death()
            self.has_died |= not self.is_ended
            self.kill()
            raise failure from None
        finally:
            self.last_used = time.monotonic()
            self._lock.release()

    def _exchange(self, ask: Ask, until: float) -> Answer:
        if self.is_ended:
            raise ProcessEnded("the model's process had ended")
        unload, self._to_unload = self._to_unload, []
        ask.unload, ask.providers, ask.nonce = unload, self.providers, secrets.token_bytes(16)
        set_deadline(self._connection, until)
        try:
            self._connection.sendall(frame(pack(ask)))
        except TimeoutError:
            raise DeadlineExceeded("the model did not take the call in time") from None
        answer = self._part(ask, until)
        while not answer.is_last:
            more = self._part(ask, until)
            answer.replies += more.replies
            answer.is_last = more.is_last
            _check_parts(ask, answer, more)
        _check_replies(ask, answer.replies)
        return answer

    def _part(self, ask: Ask, until: float) -> Answer:
        message = receive(self._connection, until=until, limit=MAX_PART)
        try:
            part = unpack_answer(message)
        except msgspec.DecodeError:
            raise ProcessDied("the model's process answered nonsense") from None
        if part.nonce != ask.nonce:
            raise ProcessDied("the model's process answered another question")
        return part

    def _death(self) -> ProcessDied:
        """Why the connection broke. The process is only looked at: its id must stay taken until its group was killed."""
        before = time.monotonic() + 0.5
        try:
            while (end := os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
                if time.monotonic() > before:
                    return ProcessDied("the model's process broke the connection")
                time.sleep(0.01)
        except ChildProcessError:  # another thread closed it meanwhile
            return ProcessDied("the model's process was stopped")
        name = f"status {end.si_status}" if end.si_code == os.CLD_EXITED else signal.Signals(end.si_status).name
        return ProcessDied(f"the model's process ended: {name}")

    def end_over_memory(self, why: str) -> bool:
        """`close` it for the memory that it holds: what it runs fails with OutOfMemory."""
        if not self.is_ended:
            self._over_memory, self.has_died = why, True
        return self.close()

    def kill(self) -> None:
        """End it and all that it started, at once, and tell."""
        if self.close() and self._on_ended is not None:
            self._on_ended(self)

    def close(self) -> bool:
        """End it, at once and without telling. Whether it had not ended before."""
        with self._closing:
            if self.is_ended:
                return False
            self.is_ended = True
            os.killpg(self.process.pid, signal.SIGKILL)  # ours until `wait` below
            self.process.wait()
            self._connection.close()
        log.info("the child process of organization %s was ended%s", self.owner, self._over_memory and f": {self._over_memory}")
        return True


def needs_to_load(source: ArtifactSource) -> int:
    """Bytes that a version takes while it is loaded: what intake has measured, and copies of the file."""
    return size_of(source) + LOAD_COPIES * len(source.artifact)


def holds_loaded(source: ArtifactSource) -> int:
    """Bytes that a loaded version takes; onnxruntime keeps the file."""
    return size_of(source) + len(source.artifact)


def _check_parts(ask: Ask, answer: Answer, more: Answer) -> None:
    """The answer so far, whose latest part is `more`. Raises ProcessDied: it would not end, or not fit into memory."""
    if not (more.replies or more.is_last) or len(answer.replies) > len(ask.works):
        raise ProcessDied("the model's process answered another number of calls")
    if sum([bytes_of(reply) for reply in answer.replies]) > ANSWERS_AT_ONCE + MAX_PART:
        raise ProcessDied("the model's process answered more than it was asked for")


def _check_replies(ask: Ask, replies: list[Reply]) -> None:
    """Raises ProcessDied: these are not replies to some of the works, at least one, that a worker could have made."""
    places = {reply.number for reply in replies}
    if len(places) != len(replies) or not places <= set(range(len(ask.works))) or (ask.works and not places):
        raise ProcessDied("the model's process answered another number of calls")
    for reply in replies:
        if reply.code not in CODES:
            raise ProcessDied("the model's process answered with an unknown code")
        for tensor in reply.outputs or []:
            check_output(tensor)
