"""What must hold before a service starts: no other one on its data directory, nothing else on its port."""

import errno
import fcntl
import os
import shutil
import socket
import time
from pathlib import Path

from saas.local.processes import is_running

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
