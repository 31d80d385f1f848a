"""The artifact store: a local directory, and S3-compatible storage against a real HTTP server that behaves like it."""

import hashlib
import os
import secrets

import obstore
import pytest
from obstore.store import S3Store

from inference import artifacts
from inference.artifacts import ArtifactError, LocalStore, ObjectStore

pytestmark = pytest.mark.no_servers
CREDENTIALS = {"access_key_id": "key", "secret_access_key": "secret"}


@pytest.fixture(scope="module")
def s3():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3):
    import urllib.request

    name = f"artifacts-{secrets.token_hex(4)}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT"), timeout=10).close()  # ours
    return name


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path, monkeypatch):
    """The store behind the port's functions, one after the other."""
    if request.param == "local":
        made = LocalStore(tmp_path / "artifacts")
    else:
        endpoint, name = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
        made = ObjectStore(
            S3Store(
                name, prefix="models", endpoint=endpoint, region="us-east-1", client_options={"allow_http": True}, **CREDENTIALS
            )
        )
    monkeypatch.setattr(artifacts, "store", lambda: made)
    return made


@pytest.fixture
def file(tmp_path):
    def make(data):
        path = tmp_path / secrets.token_hex(4)
        path.write_bytes(data)
        return path, hashlib.sha256(data).hexdigest()

    return make


def test_what_is_put_is_read_opened_and_deleted(store, file):
    path, digest = file(b"model")

    artifacts.put("a/b.onnx", path)

    assert not path.exists()
    assert artifacts.read("a/b.onnx", digest) == b"model"
    with artifacts.opened("a/b.onnx", digest) as opened:
        assert opened.read() == b"model"
        assert os.fstat(opened.fileno()).st_nlink == 0
    artifacts.delete("a/b.onnx")
    artifacts.delete("a/b.onnx")
    with pytest.raises(ArtifactError):
        artifacts.read("a/b.onnx", digest)
    with pytest.raises(ArtifactError), artifacts.opened("a/b.onnx", digest):
        pass


def test_large_artifacts_go_in_parts(store, file):
    data = os.urandom(1 << 20) * 24
    path, digest = file(data)

    artifacts.put("a/large.onnx", path)

    assert artifacts.read("a/large.onnx", digest) == data


def test_other_bytes_than_those_stored_are_refused(store, file):
    path, _ = file(b"model")
    artifacts.put("a/b.onnx", path)

    with pytest.raises(ArtifactError, match="digest"):
        artifacts.read("a/b.onnx", "0" * 64)
    with pytest.raises(ArtifactError, match="digest"), artifacts.opened("a/b.onnx", "0" * 64):
        pass


def test_local_files_are_the_owners_alone(tmp_path, file):
    path, _ = file(b"model")
    path.chmod(0o600)

    LocalStore(tmp_path / "artifacts").put("a/b.onnx", path)

    for folder in (tmp_path / "artifacts", tmp_path / "artifacts" / "a"):
        assert folder.stat().st_mode & 0o077 == 0
    assert (tmp_path / "artifacts/a/b.onnx").stat().st_mode & 0o077 == 0


def test_the_settings_choose_the_store(bucket, s3):
    from django.conf import settings

    config = settings.CONFIG
    changed = {"artifacts_url": f"s3://{bucket}/models", "s3_endpoint": s3}
    before = {name: getattr(config, name) for name in changed}
    assert isinstance(artifacts.store(), LocalStore)
    try:
        artifacts.store.cache_clear()
        for name, value in changed.items():
            setattr(config, name, value)
        config.s3_access_key, config.s3_secret_key = (type(config.kek)(text) for text in ("key", "secret"))
        made = artifacts.store()
        assert isinstance(made, ObjectStore)
        obstore.put(made.store, "x.onnx", b"model")
        assert made.read("x.onnx") == b"model"
    finally:
        for name, value in before.items():
            setattr(config, name, value)
        artifacts.store.cache_clear()


def test_a_store_that_cannot_be_reached_is_told_as_such(monkeypatch, file):
    lost = S3Store(
        "nothing",
        endpoint="http://127.0.0.1:9",
        region="us-east-1",
        client_options={"allow_http": True, "connect_timeout": "1s"},
        retry_config={"max_retries": 0},
        **CREDENTIALS,
    )
    monkeypatch.setattr(artifacts, "store", lambda: ObjectStore(lost))
    path, digest = file(b"model")

    with pytest.raises(ArtifactError):
        artifacts.put("a/b.onnx", path)
    with pytest.raises(ArtifactError):
        artifacts.read("a/b.onnx", digest)
    assert path.exists()
