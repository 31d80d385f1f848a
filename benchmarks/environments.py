"""The peers' virtual environments: exactly what requirements/NAME.txt says, by its hashes, each made once and kept."""

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.failures import Failed, say

REQUIREMENTS = Path(__file__).with_name("requirements")
INSTALL_SECONDS = 1800.0


def install(peer: str, cache: Path) -> Path:
    """The environment of `peer`. Raises Failed."""
    lock, venv = REQUIREMENTS / f"{peer}.txt", cache / "venvs" / peer
    digest, note = hashlib.sha256(lock.read_bytes()).hexdigest(), venv / "lock.sha256"
    if note.exists() and note.read_text() == digest:
        return venv
    say(f"installing {peer} (once; it takes a minute or two)")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The locks are complete; --no-deps leaves out what only the unused part of the nvidia-pytriton wheel needs.
    _run([*pip, "--no-deps", "--require-hashes", "-r", str(lock)])
    note.write_text(digest)
    return venv


def versions(peer: str) -> dict[str, str]:
    """The locked versions by package, as they stand at the beginning of a line."""
    lines = (REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
    pins = (line.split(" ")[0].partition("==") for line in lines if "==" in line and not line.startswith(" "))
    return {name: version for name, _, version in pins}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode:
        raise Failed(f"not installed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}")
