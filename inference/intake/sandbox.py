"""Starts intake's subprocess and believes nothing that it says beyond its form.

The process gets the artifact and the manifest as open files and has nothing else: no environment, no other file, an empty
read-only folder as working directory, limits on memory, processor time and files, and a deadline after which its whole
process group is killed.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec

from inference.intake.rules import RULES, Rejected

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = 4 << 30  # bytes of address space, and MEMORY_PER_BYTE for each of the artifact
MEMORY_PER_BYTE = 5
SECONDS = {"static": 30.0, "probe": 90.0}  # by the clock
CPU_SECONDS = {"static": 20, "probe": 80}
SHORT_SECONDS, SHORT_CPU_SECONDS = 20.0, 3  # of a stage in a short examination; most models need less than one
LOAD_SECONDS, RUN_SECONDS = 30.0, 10.0  # of processor time, for loading and for each run
MAX_OUTPUT = 8 << 20  # bytes that the process may write
TIMEOUTS = {"load": "load_timeout", "tokenizer": "tokenizer"}
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP)


class Unfinished(Exception):
    """The process ended without a result for a reason that may be ours: try again."""


class Overran(Exception):
    """A short examination did not end: a long one has to decide."""


class Verdict(msgspec.Struct):
    """The form of a rejection."""

    result: str
    code: str
    rule: str
    detail: str
    node: str | None
    measured: dict[str, Any]


class Line(msgspec.Struct):
    """The form of a line."""

    stage: str | None = None
    facts: dict[str, Any] | None = None
    rejected: Verdict | None = None


def examine(
    stage: str, artifact: BinaryIO, manifest: dict[str, Any], *, max_rows: int = 64, is_short: bool = False
) -> dict[str, Any]:  # Any: JSON
    """The facts that a stage (`static`, `probe`) finds. `artifact` is at its beginning.

    `max_rows`: no more rows of different calls than that are ever run together. Raises Rejected, Unfinished and, if it
    `is_short` and would need more time, Overran.
    """
    seconds = SHORT_SECONDS if is_short else SECONDS[stage]
    cpu_seconds = SHORT_CPU_SECONDS if is_short else CPU_SECONDS[stage]
    size = os.fstat(artifact.fileno()).st_size
    with tempfile.TemporaryDirectory(prefix="intake-") as folder, tempfile.TemporaryFile("w+") as job:
        os.chmod(folder, 0o500)
        asked = {"manifest": manifest, "load_seconds": LOAD_SECONDS, "run_seconds": RUN_SECONDS, "max_rows": max_rows}
        json.dump(asked, job)
        job.seek(0)
        process = subprocess.Popen(
            command(stage, job, MEMORY + MEMORY_PER_BYTE * size, cpu_seconds),
            stdin=artifact,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[job.fileno()],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,
        )
        try:
            output = _read(process, time.monotonic() + seconds)
        except Unfinished:
            if is_short:
                raise Overran from None
            raise
        finally:
            _kill(process)
    if is_short and process.returncode == -signal.SIGXCPU:
        raise Overran
    return _result(stage, output, process.returncode)


def command(stage: str, job: IO[str], memory: int, cpu_seconds: int) -> list[str]:
    """The command line: no site packages of the user's, no bytecode written, nothing imported from the working directory."""
    arguments = (stage, job.fileno(), os.getpid(), memory, cpu_seconds)
    return [sys.executable, "-s", "-P", "-B", "-m", "inference.intake.child", *map(str, arguments)]


def _read(process: "subprocess.Popen[bytes]", deadline: float) -> bytes:
    """What it writes until it closes its output. Raises Unfinished at the deadline, Rejected if it floods."""
    assert process.stdout is not None
    output = b""
    with selectors.DefaultSelector() as selector, process.stdout:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise Unfinished("the examination took too long")
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            output += chunk
            if len(output) > MAX_OUTPUT:
                raise Rejected("crashed", "The process that examined the model wrote without end")
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Unfinished("the examination did not end") from None
    return output


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the whole group, and reap the process."""
    with suppress(ProcessLookupError, PermissionError):  # all of it is gone; macOS says EPERM for a zombie
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _result(stage: str, output: bytes, status: int) -> dict[str, Any]:  # Any: JSON
    under_way = "read"
    for line in output.splitlines():
        try:
            said = msgspec.json.decode(line, type=Line)
        except msgspec.DecodeError:
            raise Rejected("crashed", "The process that examined the model wrote nonsense") from None
        if said.rejected is not None:
            raise _believed(said.rejected)
        if said.facts is not None:
            return said.facts
        under_way = said.stage or under_way
    if status in (-signal.SIGPROF, -signal.SIGXCPU):
        raise Rejected(TIMEOUTS.get(under_way, "run_timeout"), f"The model used up its processor time ({under_way})")
    if -status in CRASHES:
        name = signal.Signals(-status).name
        raise Rejected("crashed", f"The model ended the process that ran it with {name} ({under_way})", signal=name)
    raise Unfinished(f"stage {stage} ended with status {status} ({under_way})")


def _believed(verdict: Verdict) -> Rejected:
    code = verdict.code if verdict.code in RULES else "crashed"
    return Rejected(code, verdict.detail, node=verdict.node or "", **verdict.measured)
