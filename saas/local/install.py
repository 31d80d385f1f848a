"""The virtual environment in .venv, with exactly what the lock files say. Run by the system's Python: standard library only.

`python3 saas/local/install.py [--dev]`. What was installed is noted as the hash of its lock file, so that repeating it costs
nothing, an interrupted installation is completed, and a changed lock is followed.
"""

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
RUNTIME, DEVELOPMENT = ROOT / "requirements.txt", ROOT / "requirements-dev.txt"


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one learns it here
        return refuse(f"Python 3.11 is needed, this is {sys.version.split()[0]}. Name another: make PYTHON=python3.12 run")
    wanted = [RUNTIME, DEVELOPMENT] if "--dev" in arguments else [RUNTIME]
    try:
        with (ROOT / ".venv.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once install once
            return next((1 for file in wanted if not is_installed(file) and install(file)), 0)
    except PermissionError as error:
        return refuse(f"There is no permission to write {error.filename}: does the checkout belong to another user?")


def is_installed(lock: Path) -> bool:
    return PYTHON.exists() and note(lock).exists() and note(lock).read_text() == digest(lock)


def install(lock: Path) -> int:
    """Make .venv if it is not there or not usable, and install what `lock` names, by its hashes. The exit status."""
    if not is_usable():
        if importlib.util.find_spec("ensurepip") is None:
            return refuse("Python's venv module is incomplete. On Debian: apt install python3-venv")
        print("Creating .venv", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
            return refuse("The virtual environment .venv could not be made: see above.")
    print(f"Installing {lock.name} into .venv (this takes a minute or two, once)", flush=True)
    note(lock).unlink(missing_ok=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    if subprocess.run([*command, "--require-hashes", "-r", str(lock)], check=False).returncode:
        return refuse(f"What {lock.name} names could not be installed: see above. Repeat the command when the reason is gone.")
    note(lock).write_text(digest(lock))
    return 0


def is_usable() -> bool:
    """Whether .venv has a Python that runs and a pip."""
    try:
        return subprocess.run([str(PYTHON), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def note(lock: Path) -> Path:
    return VENV / f".{lock.stem}.sha256"


def digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def refuse(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
