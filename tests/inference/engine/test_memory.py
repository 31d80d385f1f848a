"""How much memory there is, and how much a process holds."""

import os
import subprocess
import sys

import pytest

from inference.engine.memory import _limits, held_bytes, machine_bytes
from tests.waiting import until

pytestmark = pytest.mark.no_servers
MIB = 1 << 20


def test_the_machine_has_no_more_than_its_pages():
    assert 0 < machine_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/a/b", {"a/b/memory.max": "max\n", "a/memory.max": "700\n", "memory.max": "900\n"}, [700, 900]),
        ("0::/elsewhere", {"memory.max": "500\n"}, [500]),  # in a container, which sees its own group at the root
        ("4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "300\n"}, [300]),
        ("4:cpu:/a", {"memory/a/memory.limit_in_bytes": "300\n"}, []),
        ("0::/", {}, []),
    ],
)
def test_a_container_has_what_its_control_groups_allow(tmp_path, line, files, expected):
    of_process = tmp_path / "cgroup"
    of_process.write_text(f"{line}\n")
    for name, text in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert _limits(of_process, tmp_path / "fs") == expected


def test_a_machine_without_control_groups_has_no_such_limit(tmp_path):
    assert _limits(tmp_path / "missing", tmp_path) == []


def test_a_process_holds_what_it_has_written_to():
    program = "kept = bytearray(100 << 20); import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        held = held_bytes(process.pid)
        process.stdin.close()

    assert 100 * MIB < held < 150 * MIB
    until(lambda: held_bytes(process.pid) == 0)
