"""Where artifacts are kept: one small port, a local directory by default, S3-compatible object storage by setting.

An upload is first written to quarantine, a file under DATA_DIR/uploads; the store takes it whole or not at all. A key is
`{organization}/{version}.onnx`, hexadecimal, and never written twice.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import obstore
from django.conf import settings
from obstore.exceptions import BaseError as StoreFailure
from obstore.store import S3Store

from inference import disk

CHUNK = 1 << 20


class ArtifactError(Exception):
    """The store cannot do it now, or the bytes are not those that were stored."""


class Store(Protocol):
    def put(self, key: str, path: Path) -> None: ...
    def read(self, key: str) -> bytes: ...
    def copy(self, key: str, target: BinaryIO) -> None: ...
    def delete(self, key: str) -> None: ...


class LocalStore:
    """A directory of mode 0700. A file appears under its name once it is complete and on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, path: Path) -> None:
        target = self.root / key
        for folder in (self.root, target.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def copy(self, key: str, target: BinaryIO) -> None:
        with (self.root / key).open("rb") as file:
            shutil.copyfileobj(file, target, CHUNK)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)


class ObjectStore:
    """S3-compatible object storage through obstore: uploads in parts, downloads in a stream."""

    def __init__(self, store: S3Store) -> None:
        self.store = store

    def put(self, key: str, path: Path) -> None:
        obstore.put(self.store, key, path)
        path.unlink()

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self.store, key).bytes())

    def copy(self, key: str, target: BinaryIO) -> None:
        for chunk in obstore.get(self.store, key).stream(min_chunk_size=CHUNK):
            target.write(chunk)

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self.store, key)
        except FileNotFoundError:  # it is gone already, which was asked for
            return


@cache
def store() -> Store:
    """The store that the settings name."""
    config = settings.CONFIG
    if not config.artifacts_url:
        return LocalStore(config.data_dir / "artifacts")
    given = {
        "endpoint": config.s3_endpoint,
        "region": config.s3_region,
        "access_key_id": config.s3_access_key.get_secret_value(),
        "secret_access_key": config.s3_secret_key.get_secret_value(),
    }
    options: Any = {"allow_http": config.s3_endpoint.startswith("http://"), "timeout": "300s", "connect_timeout": "5s"}
    named: Any = {name: value for name, value in given.items() if value}  # Any, both: TypedDicts of obstore
    return ObjectStore(S3Store.from_url(config.artifacts_url, client_options=options, **named))


def put(key: str, path: Path) -> None:
    """Store the file at `path`, which is taken away, under a new key. Raises ArtifactError; then the store has nothing."""
    with _failures(key):
        store().put(key, path)


def read(key: str, digest: str) -> bytes:
    """The artifact, checked against its SHA-256. Raises ArtifactError."""
    with _failures(key):
        artifact = store().read(key)
    if hashlib.sha256(artifact).hexdigest() != digest:
        raise ArtifactError(f"the stored artifact {key} has another digest")
    return artifact


@contextmanager
def opened(key: str, digest: str) -> Iterator[BinaryIO]:
    """The artifact as a nameless local file at its beginning, checked against its SHA-256, for intake's subprocess."""
    with tempfile.TemporaryFile(dir=quarantine()) as file:
        with _failures(key):
            store().copy(key, file)
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ArtifactError(f"the stored artifact {key} has another digest")
        file.seek(0)
        yield file


def delete(key: str) -> None:
    """Remove the artifact; nothing happens if it is not there. Raises ArtifactError."""
    with _failures(key):
        store().delete(key)


def quarantine() -> Path:
    """The folder of uploads that are under way."""
    folder: Path = settings.CONFIG.data_dir / "uploads"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def has_room() -> bool:
    """False if the disk that takes uploads is almost full."""
    return disk.has_room(quarantine())


def sweep_quarantine(max_age: float) -> int:
    """Remove uploads that ended without a trace (a killed process) more than `max_age` seconds ago; returns how many."""
    old = [path for path in quarantine().iterdir() if path.stat().st_mtime < time.time() - max_age]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


@contextmanager
def _failures(key: str) -> Iterator[None]:
    try:
        yield
    except (StoreFailure, OSError) as error:
        raise ArtifactError(f"the artifact store failed on {key}: {type(error).__name__}") from error
