"""Processes that this checkout started: how they are marked, found again and ended, also after a kill -9 of their parent.

Every part carries `MARK=<data dir>` in its environment, and a server's working directory is its data directory: by these two
a process is known as ours, never by its name or by a number that was written down. Linux only (/proc).
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

MARK = "MODEL_SERVICE_HOME"
PROC = Path("/proc")


def processes_in(directory: Path) -> set[int]:
    """Ids of the living processes whose working directory is `directory`: a server and its children."""
    wanted = str(directory.resolve())
    return {pid for pid in _pids() if _working_directory(pid) == wanted}


def marked_processes(data_dir: Path) -> set[int]:
    """Ids of the living processes that were started with `MARK` set to `data_dir`, this one left out."""
    wanted = f"{MARK}={data_dir.resolve()}".encode()
    return {pid for pid in _pids() if pid != os.getpid() and wanted in _environment(pid)}


def end(find: Callable[[], set[int]], signals: Iterable[tuple[signal.Signals, float]]) -> set[int]:
    """Send each signal to all that `find` finds and wait up to its seconds for them to end; what is left is returned."""
    for number, seconds in signals:
        for pid in find():
            _send(pid, number)
        deadline = time.monotonic() + seconds
        while find():
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return set()
    return find()


def end_groups(leaders: Iterable[int]) -> None:
    """Kill what is left of the process groups of `leaders`: children that did not end with their parent."""
    for pid in leaders:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def end_leftovers(data_dir: Path, directories: Iterable[Path], *, grace: float = 5.0) -> int:
    """End all that an earlier start left behind: the parts first, then the servers. How many there were.

    A part that does not end within `grace` seconds is killed, with its process group.
    """
    found = marked_processes(data_dir)
    directories = list(directories)
    servers = {pid for directory in directories for pid in processes_in(directory)}
    parts = found - servers
    groups = {group for pid in parts if (group := _group(pid)) not in (None, os.getpgrp())}
    end(lambda: marked_processes(data_dir) & parts, [(signal.SIGTERM, grace)])
    end_groups(group for group in groups if group is not None)
    end(lambda: marked_processes(data_dir) & parts, [(signal.SIGKILL, grace)])
    for directory in directories:
        end_in(directory)
    return len(found | servers)


def end_in(directory: Path, *, grace: float = 5.0) -> None:
    """End the server that works in `directory`: SIGINT is PostgreSQL's fast shutdown and Valkey's clean one."""
    left = end(lambda: processes_in(directory), [(signal.SIGINT, grace), (signal.SIGQUIT, grace), (signal.SIGKILL, grace)])
    if left:
        raise RuntimeError(f"processes {sorted(left)} work in {directory} and cannot be ended")


class Guard:
    """A small process that outlives a kill -9 of this one, and then ends everything that this one started.

    It waits on a pipe whose other end only this process holds; the end of the pipe means that this process is gone.
    `lock` is an open file that it keeps: whoever starts next must wait until everything is ended.
    """

    def __init__(self, data_dir: Path, directories: Iterable[Path], *, lock: int | None = None) -> None:
        directories = list(directories)
        reader, self._writer = os.pipe()
        os.set_inheritable(self._writer, False)
        self._pid = os.fork()
        if self._pid:
            os.close(reader)
            return
        try:
            self._close_all_but({reader} if lock is None else {reader, lock})
            self._watch(reader, data_dir, directories)
        finally:
            os._exit(0)

    def _watch(self, reader: int, data_dir: Path, directories: list[Path]) -> None:
        os.setsid()
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while os.read(reader, 1):
            pass
        end_leftovers(data_dir, directories, grace=3.0)

    def _close_all_but(self, kept: set[int]) -> None:
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) > 2 and int(entry) not in kept:
                with contextlib.suppress(OSError):  # the listing's own is closed already
                    os.close(int(entry))

    def dismiss(self) -> None:
        """Everything was ended in order: let the guard go, and wait until it is gone."""
        os.close(self._writer)
        os.waitpid(self._pid, 0)


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _working_directory(pid: int) -> str:
    """Where the process works; "" if it has ended, is a zombie, or is not ours to look at."""
    try:
        return os.readlink(PROC / str(pid) / "cwd")
    except OSError:
        return ""


def _environment(pid: int) -> list[bytes]:
    """The environment that the process was started with; [] if it has ended or is not ours to look at."""
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def is_running(pid: int) -> bool:
    """Whether the process is there and has not ended: one that was killed, and that nobody has waited for, has."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> set[int]:
    """Ids of the living children of a process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            if int(fields[1]) == pid and fields[0] != "Z":
                found.add(int(entry.name))
    return found
