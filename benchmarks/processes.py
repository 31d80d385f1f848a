"""Linux processes: start and stop of whole trees, and the processor time that they used, from /proc."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
STOP_SECONDS = 15.0
USER_TO_CHILDRENS_SYSTEM = slice(11, 15)  # utime, stime, cutime, cstime in what `_stat` gives (proc(5))


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, so that no daemon leaves its tree."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tree(roots: Iterable[int]) -> set[int]:
    """The roots and everything below them that lives now."""
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children[int(fields[1])].append(int(name))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children[pid]
    return found


def below_us() -> set[int]:
    """Everything that this process started, at any depth."""
    return tree([os.getpid()]) - {os.getpid()}


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of the processes and of those children of theirs that have ended; in steps of 10 ms each."""
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[USER_TO_CHILDRENS_SYSTEM]) / TICKS


def machine_seconds() -> float:
    """Processor time since the machine's start that was not idle; steal is in it, time of guests is not counted twice."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, first.split()[1:9])
    return (user + nice + system + interrupts + soft + steal) / TICKS


def memory_bytes(pid: int) -> int:
    """Anonymous memory that the process holds now, without files and shared memory; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def open_files(pid: int) -> int:
    """File descriptors that the process has open now; 0 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def start(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process in a session of its own; what it says goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """End the process and all that it started, at last by force."""
    mine = {(pid, _born(pid)) for pid in tree([process.pid])}
    if process.poll() is None:
        process.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    deadline = time.monotonic() + STOP_SECONDS
    while (left := _of_session(process.pid) | _alive(mine)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        _reap(left - {process.pid})
        time.sleep(0.05)


def _of_session(leader: int) -> set[int]:
    """What lives below us in the session of `leader`, and below that."""
    members = {pid for pid in below_us() if (fields := _stat(pid)) and int(fields[3]) == leader}
    return tree(members)


def _alive(known: set[tuple[int, str]]) -> set[int]:
    """Those of `known` (number, start time) that are not gone; what has the number of one that ended is another process."""
    return {pid for pid, born in known if born and _born(pid) == born}


def _born(pid: int) -> str:
    """When it was started, in ticks since the machine was; "" if it is gone or only waits to be collected."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()  # the name before it may hold spaces


def last_line(log: Path) -> str:
    if not log.exists():
        return "nothing was logged"
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "nothing was logged"
