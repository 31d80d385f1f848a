"""PostgreSQL and both Valkeys of a benchmark's own, durable as in production, and the CPU time that each has used."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")  # microseconds


@contextmanager
def servers() -> Iterator[dict[str, int]]:
    """The running servers, migrated, with Django set up for them; their process ids by name."""
    from saas.local.processes import Guard
    from saas.local.servers import Postgres, Valkey, embedded_servers, spawn, wait_ready

    data_dir = Path(tempfile.mkdtemp(prefix="model-service-benchmark-"))
    postgres, state, lanes = embedded_servers(data_dir)
    ours: list[Postgres | Valkey] = [postgres, state, lanes]
    guard = Guard(data_dir, [server.directory for server in ours])  # ends the servers if the benchmark is killed
    os.environ.update({name: url for server in ours for name, url in server.urls().items()})
    os.environ.update(DJANGO_SETTINGS_MODULE="saas.settings", DEBUG="1", DATA_DIR=str(data_dir))
    processes = []
    try:
        with (data_dir / "servers.log").open("wb") as log:
            for server in ours:
                server.prepare()
                processes.append(spawn(server, data_dir, output=log.fileno()))
            for server, process in zip(ours, processes, strict=True):
                wait_ready(server, process)
        postgres.create_database()
        _migrate()
        yield {server.name: process.pid for server, process in zip(ours, processes, strict=True)}
    finally:
        for server, process in zip(ours, processes, strict=False):
            process.send_signal(server.stop_signal)
        for process in processes:
            process.wait(60)
        postgres.home.remove()
        shutil.rmtree(data_dir, ignore_errors=True)
        guard.dismiss()


def _migrate() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", database="owner", verbosity=0)


def cpu_us(pid: int) -> int:
    """Microseconds of CPU time of a process, its children, and those of them that have ended."""
    used = _ticks(pid, ended=True)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(_fields(folder)[1]) == pid:
                used += _ticks(int(folder.name), ended=True)
        except OSError:
            continue  # it has just ended: from now on its parent counts it
    return used * TICK


def _fields(folder: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third on (proc(5))."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _ticks(pid: int, *, ended: bool) -> int:
    fields = _fields(Path(f"/proc/{pid}"))
    return sum(int(ticks) for ticks in fields[11 : 15 if ended else 13])
