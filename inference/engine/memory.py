"""How much memory this machine has, and how much of it a process holds."""

import os
from pathlib import Path

ANONYMOUS = ("RssAnon", "RssShmem", "VmSwap")  # what belongs to the process alone; pages of libraries are shared by all


def machine_bytes() -> int:
    """What the machine has or, if that is less, what the container that this process is in may have."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _limits(of_process: Path, root: Path) -> list[int]:
    """The limits of its control groups and of all above them; version 2, and the memory controller of version 1.

    A container sees its own group at the root, whatever path it is told; files that are not there say nothing.
    """
    try:
        lines = of_process.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if (limit := _number(folder / name)) is not None:
                found.append(limit)
            if folder == base:
                break
    return found


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # there is none; it says "max"
        return None


def held_bytes(pid: int) -> int:
    """What a process holds for itself, swapped or not; 0 if it has ended, or cannot be seen here."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.partition(":")[0] in ANONYMOUS)
