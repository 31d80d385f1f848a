"""The other model servers: in which configurations each is tried, and how it is started."""

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.failures import Failed
from benchmarks.models import Model, about

SERVERS = Path(__file__).with_name("servers")
BATCH = 64
WINDOW = 0.002  # seconds that a batch waits to fill, where a peer's batching needs a wait
COPIES = 2  # of the model, or processes, in the configurations that have several


@dataclass(frozen=True)
class Variant:
    """One configuration. `batch`: the most rows that it runs together; `window`: how long a batch waits to fill, in seconds."""

    peer: str
    name: str
    note: str
    copies: int = 1
    batch: int = 1
    window: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.peer}:{self.name}"


VARIANTS = (
    Variant("bento", "copies", f"{COPIES} workers, no access log, no metrics", copies=COPIES),
    Variant("bento", "batch", f"{COPIES} workers, adaptive batches", copies=COPIES, batch=BATCH),
    Variant("litserve", "one", f"{COPIES} API servers, fast queue, one copy"),
    Variant("litserve", "copies", f"the same with {COPIES} copies", copies=COPIES),
    Variant("litserve", "batch", f"one copy, batches within {1000 * WINDOW:g} ms", batch=BATCH, window=WINDOW),
    Variant("mlserver", "one", "no parallel workers, no debug, gzip or metrics"),
    Variant("mlserver", "copies", f"{COPIES} parallel workers", copies=COPIES),
    Variant("mlserver", "batch", f"no parallel workers, batches within {1000 * WINDOW:g} ms", batch=BATCH, window=WINDOW),
    Variant("ray", "one", "HAProxy, throughput mode, one replica"),
    Variant("ray", "copies", f"the same with {COPIES} replicas", copies=COPIES),
    Variant("ray", "batch", "one replica, @serve.batch without a wait", batch=BATCH),
    Variant("triton", "one", "Python backend, one instance, dynamic batching", batch=BATCH),
    Variant("triton", "copies", f"the same with {COPIES} instances", copies=COPIES, batch=BATCH),
)


@dataclass(frozen=True)
class Site:
    """Where one server runs: its environment, an empty folder, a free port, one model, in which form requests come."""

    venv: Path
    folder: Path
    port: int
    model: Model
    dialect: str


@dataclass(frozen=True)
class Launch:
    """How a server is started, and the path that answers questions."""

    command: list[str]
    path: str
    environment: dict[str, str] = field(default_factory=dict)


def bento(variant: Variant, site: Site) -> Launch:
    command = [str(site.venv / "bin/bentoml"), "serve", "bento_server:Served"]
    command += ["--working-dir", str(SERVERS), "--host", "127.0.0.1", "--port", str(site.port)]
    environment = {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(site.folder / "bentoml")}
    return Launch(command, "/classify" if site.dialect == "image" else "/infer", environment)


def litserve(variant: Variant, site: Site) -> Launch:
    return Launch([str(site.venv / "bin/python"), str(SERVERS / "litserve_server.py")], "/predict")


def mlserver(variant: Variant, site: Site) -> Launch:
    settings: dict[str, Any] = {"host": "127.0.0.1", "http_port": site.port}
    settings |= {"grpc_port": free_port(), "metrics_port": free_port(), "metrics_endpoint": None}
    settings |= {"debug": False, "gzip_enabled": False, "parallel_workers": variant.copies if variant.copies > 1 else 0}
    model: dict[str, Any] = {"name": "served", "implementation": "mlserver_runtime.Served"}
    if variant.batch > 1:
        model |= {"max_batch_size": variant.batch, "max_batch_time": variant.window}
    (site.folder / "settings.json").write_text(json.dumps(settings))
    (site.folder / "model-settings.json").write_text(json.dumps(model))
    return Launch([str(site.venv / "bin/mlserver"), "start", str(site.folder)], "/v2/models/served/infer")


def ray(variant: Variant, site: Site) -> Launch:
    proxy = site.folder / "haproxy"
    environment = {
        "BENCH_RAY_FOLDER": str(site.folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps Ray on loopback, on Linux too
        "RAY_worker_niceness": "0",  # its replicas would step back behind the load generator
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
    }
    return Launch([str(site.venv / "bin/python"), str(SERVERS / "ray_server.py")], "/", environment)


TRITON_MODEL = """\
name: "served"
backend: "python"
max_batch_size: {batch}
input [ {{ name: "{input}" data_type: TYPE_FP32 dims: {shape} }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [{classes}] }} ]
instance_group [ {{ kind: KIND_CPU count: {copies} }} ]
dynamic_batching {{ }}
"""


def triton(variant: Variant, site: Site) -> Launch:
    """The server in the nvidia-pytriton wheel, with its Python backend; the wheel's Python interface has no part in it."""
    packages = next((site.venv / "lib").glob("python3.*/site-packages"))
    server = packages / "pytriton/tritonserver"
    backend = site.folder / "backends/python"
    shutil.copytree(server / "backends/python", backend)
    stub = server / "python_backend_stubs" / packages.parent.name.removeprefix("python") / "triton_python_backend_stub"
    if not stub.exists():
        raise Failed(f"the wheel has no Python backend for {packages.parent.name}")
    shutil.copy(stub, backend)
    version = site.folder / "models/served/1"
    version.mkdir(parents=True)
    shutil.copy(SERVERS / "triton_model.py", version / "model.py")
    shutil.copy(SERVERS / "session.py", version)  # the stub does not look at PYTHONPATH
    model = site.model
    described = TRITON_MODEL.format(
        batch=variant.batch, copies=variant.copies, input=model.input, output=model.output,
        shape=model.shape, classes=len(model.expected[0]),
    )  # fmt: skip
    (version.parent / "config.pbtxt").write_text(described)
    command = [str(server / "bin/tritonserver"), "--http-address", "127.0.0.1", "--http-port", str(site.port)]
    command += ["--model-repository", str(site.folder / "models"), "--backend-directory", str(site.folder / "backends")]
    command += ["--allow-grpc", "false", "--allow-metrics", "false"]
    return Launch(command, "/v2/models/served/infer", {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")})


LAUNCHERS: dict[str, Callable[[Variant, Site], Launch]] = {
    "bento": bento,
    "litserve": litserve,
    "mlserver": mlserver,
    "ray": ray,
    "triton": triton,
}


def prepare(variant: Variant, site: Site) -> Launch:
    """The launch with all that its environment needs; of ours a peer inherits only the search path. Raises Failed, OSError."""
    launch = LAUNCHERS[variant.peer](variant, site)
    settings = about(site.model) | {
        "port": site.port,
        "shape": site.model.shape,
        "copies": variant.copies,
        "processes": COPIES,
        "max_batch": variant.batch,
        "window": variant.window,
    }
    environment = {
        "PATH": f"{site.venv / 'bin'}:{os.environ['PATH']}",
        "HOME": str(site.folder),
        "TMPDIR": str(site.folder),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SERVERS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "BENCH_SETTINGS": json.dumps(settings),
    }
    return Launch(launch.command, launch.path, environment | launch.environment)


def select(names: list[str]) -> list[Variant]:
    """`["bento", "triton:one"]` → all configurations of BentoML and one of Triton; none named: all. Raises ValueError."""
    selected: list[Variant] = []
    for name in names:
        found = [variant for variant in VARIANTS if name in (variant.peer, variant.label)]
        if not found:
            raise ValueError(f"there is no peer {name!r}; there are {', '.join(variant.label for variant in VARIANTS)}")
        selected += [variant for variant in found if variant not in selected]
    return selected or list(VARIANTS)


def free_port() -> int:
    """A port below those of outgoing connections, so that none of them takes it before the server does."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - no secret
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
