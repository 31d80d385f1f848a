"""What must hold before a service starts: no other one on its data directory, nothing else on its port."""

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg2
import redis

from saas.local.environment import VALKEYS
from saas.local.processes import is_running
from saas.local.servers import URL_ROLES

REACH_SECONDS = 5.0  # for servers of the caller's own to answer
ASK_SECONDS = 3
GUARD_SECONDS = 60.0  # that the guard of a killed supervisor needs at most: about 3, and more where the disk is slow


class CannotStart(Exception):
    """Why there is no service; the message says what to do."""


def lock_or_refuse(data_dir: Path) -> int:
    """The lock of this data directory, as an open file; it goes with the process. Raises CannotStart if another has it.

    After a kill -9 its guard has it until everything is ended: that is waited for.
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + GUARD_SECONDS
    while not _is_locked(descriptor):
        owner = os.pread(descriptor, 20, 0).decode()
        if owner and is_running(int(owner)):
            os.close(descriptor)
            raise CannotStart(
                f"the service of this checkout is already running (process {owner}): stop it first, or use `make restart`"
            )
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise CannotStart("what an earlier start left is still being ended: try again, and look for processes that hang")
        time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def wait_until_ended(data_dir: Path, seconds: float) -> None:
    """Return when nobody has the lock of this data directory. Raises CannotStart if somebody still has after `seconds`."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + seconds
        while not _is_locked(descriptor):
            if time.monotonic() > deadline:
                raise CannotStart(f"the service is still ending after {seconds:g} s")
            time.sleep(0.05)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def refuse_taken_port(port: int) -> None:
    """Raises CannotStart if something listens on 127.0.0.1:`port`."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            reason = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise CannotStart(f"port {port} {reason}: choose another one with PORT=… make run") from None


def refuse_missing_gpu(given: Mapping[str, str]) -> None:
    """Raises CannotStart if the worker is to serve a GPU that its onnxruntime cannot use."""
    if given.get("ENGINE_HARDWARE") == "gpu":
        from inference.engine.sessions import providers_for  # only here: it imports onnxruntime

        try:
            providers_for("gpu", 0)
        except RuntimeError as error:
            raise CannotStart(f"{error}, or set ENGINE_HARDWARE=cpu") from None


def refuse_unreachable(given: Mapping[str, str]) -> None:
    """Raises CannotStart if a server that the caller's environment names does not answer within REACH_SECONDS, all in all.

    One that is only just starting is asked again and again until then.
    """
    deadline = time.monotonic() + REACH_SECONDS
    for name in (*URL_ROLES, *VALKEYS):
        while given.get(name) and (reason := _refusal_of(name, given[name])):
            if time.monotonic() > deadline:
                raise CannotStart(f"{name} names a server that does not answer ({reason}): start it, or correct the address")
            time.sleep(0.2)


def _refusal_of(name: str, url: str) -> str:
    """Why the server cannot be asked, without the address, which may hold a password; "" if it answers."""
    try:
        if name in URL_ROLES:
            psycopg2.connect(url, connect_timeout=ASK_SECONDS).close()
        else:
            with closing(redis.Redis.from_url(url, socket_connect_timeout=ASK_SECONDS, socket_timeout=ASK_SECONDS)) as client:
                client.ping()
    except psycopg2.OperationalError as error:
        return str(error).partition("\n")[0].rpartition(": ")[2]
    except redis.BusyLoadingError:
        return ""  # it is there, and reads its file
    except (redis.ConnectionError, redis.TimeoutError) as error:
        return str(error.__cause__ or error)
    return ""
