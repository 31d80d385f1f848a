"""The inside of a customer's child process: it loads that one organization's versions and runs them.

It has no secret to lose: a clean environment, one socket as standard input, an empty folder as working directory. The
sandbox around it (seccomp, own uid, no network) is set up by whoever starts it.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from inference.engine.batch import run_each
from inference.engine.model import Model
from inference.engine.pipe import ANSWERS_AT_ONCE, PART_BYTES, Answer, Ask, frame, pack, receive, unpack_ask
from inference.lanes import Reply, bytes_of

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38  # linux/prctl.h
OPEN_FILES = 64
OOM_SCORE_ADJ = 1000  # the most there is
NICENESS = 5  # the worker, the gateway and the catalogue's models come first when the machine is full


def main(parent: int, memory_bytes: int) -> None:
    """Answer questions until the worker ends the connection. `parent` is the worker's process id."""
    confine(parent, memory_bytes)
    connection = socket.socket(fileno=0)
    models: dict[str, Model] = {}
    while True:
        try:
            ask = unpack_ask(receive(connection))
        except ConnectionError:
            return
        for part in answer(models, ask):
            connection.sendall(frame(pack(part)))
        del ask  # it may hold a whole model, or very many inputs, and the next may be long in coming


def confine(parent: int, memory_bytes: int) -> None:
    """Give up what is not needed: memory beyond the bound, core files, files, new privileges, life after the parent.

    And be the first to go: when the machine has no memory left, the kernel ends this process, and no server or gateway.
    """
    os.nice(NICENESS)
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))  # before it is no longer dumpable, and the file root's
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for option, value in ((PR_SET_PDEATHSIG, signal.SIGKILL), (PR_SET_DUMPABLE, 0), (PR_SET_NO_NEW_PRIVS, 1)):
            if prctl(option, int(value), 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), f"prctl {option}")
    if os.getppid() != parent:  # it died before it could be asked to tell us
        sys.exit(1)


def answer(models: dict[str, Model], ask: Ask) -> Iterator[Answer]:
    """Do what is asked; a model's failure is in the answer, never an exception of this process. The parts of the answer."""
    for version in ask.unload:
        models.pop(version, None)
    if ask.load is not None:
        try:
            model = Model.open(ask.load, providers=tuple(ask.providers), max_rows=ask.max_rows)
            model.warm()
        except Exception as error:  # onnxruntime raises its own types, ValueError, KeyError, MemoryError
            yield Answer(ask.nonce, error=str(error).strip().partition("\n")[0][:300] or type(error).__name__)
            return
        models[ask.load.version] = model
    if ask.works:
        yield from _run(models[ask.version], ask)
    else:
        yield Answer(ask.nonce)


def _run(model: Model, ask: Ask) -> Iterator[Answer]:
    """Small replies together, a large one alone, and no more once they are very many bytes: the worker holds them all."""
    part: list[Reply] = []
    waiting = sent = 0
    for place, reply in run_each(model, ask.works, max_rows=ask.max_rows, is_shared=True):
        reply.number = place
        part.append(reply)
        waiting += bytes_of(reply)
        if waiting >= PART_BYTES:
            yield Answer(ask.nonce, replies=part, is_last=False)
            part, sent, waiting = [], sent + waiting, 0
        if sent >= ANSWERS_AT_ONCE:
            break
    yield Answer(ask.nonce, replies=part)
