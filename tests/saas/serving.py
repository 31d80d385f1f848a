"""Not a test: the real server, protocol and dialects on a real socket; behind them a small gateway that behaves."""

import asyncio
import http.client
import json
import socket
import threading
from uuid import UUID

import numpy as np
import uvicorn

from inference.gateway.call import Call
from inference.gateway.front import Front
from inference.gateway.requestlog import RequestLog
from inference.lanes import Prediction, Reply
from inference.routes import ModelRoute, TensorSpec, VersionRoute
from saas.asgi import answer, target_in
from saas.lib import errors
from saas.lib.prices import FREE
from saas.server import FrontServer
from tenants.principal import KeyRecord, Limits
from tests.waiting import PATIENCE, until

KEY = "maas_live_alice"
READ_ONLY_KEY = "maas_live_reader"
DTYPES = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def key_record(**fields) -> KeyRecord:
    limits = Limits(1000.0, 1000, 100)
    values = {
        "public_id": "alice0000000", "id": "1" * 32, "organization": "a" * 32, "slug": "alice", "mode": "live", "hash": b"",
        "pepper_version": 1, "scopes": ["predictions:write", "models:read"], "models": None, "expires_at": None,
        "is_active": True, "limits": limits, "organization_limits": limits, "is_capped": False, "data_key_id": "",
        "data_key": b"",
    }  # fmt: skip
    return KeyRecord(**(values | fields))


def version_route(inputs, outputs, **fields) -> VersionRoute:
    values = {"id": "f" * 32, "number": "1.0.0", "digest": "", "state": "ready", "has_batch": True, "is_batchable": True}
    values |= {"input": inputs[0][0], "output": outputs[0][0]}
    return VersionRoute(inputs=[TensorSpec(*i) for i in inputs], outputs=[TensorSpec(*o) for o in outputs], **(values | fields))


def model_route(name, version, *, task="tensor", owner="alice") -> ModelRoute:
    rejected = version_route([("x", "FP32", [-1])], [("y", "FP32", [-1])], number="2.0.0", state="rejected")
    return ModelRoute(
        id="e" * 32,
        name=name,
        owner="a" * 32,
        owner_slug=owner,
        is_public=owner == "catalog",
        task=task,
        versions={version.number: version, "2.0.0": rejected},
        aliases={"production": version.number, "stable": version.number},
    )


def echo_model(datatype: str, shape: list[int], *, has_batch: bool = True) -> VersionRoute:
    return version_route([("x", datatype, shape)], [("y", datatype, shape)], has_batch=has_batch)


def models() -> dict[str, ModelRoute]:
    """Every model answers with its inputs, under the names of its outputs; classifiers score them."""
    found = {
        name: model_route(name, version)
        for name, version in {
            **{f"echo-{datatype.lower()}": echo_model(datatype, [-1, 2]) for datatype in DTYPES},
            "echo-bytes": echo_model("BYTES", [-1, 2]),
            "echo-bf16": echo_model("BF16", [-1, 2]),
            "rows": echo_model("FP32", [-1, 4]),
            "matrix": echo_model("FP32", [2, 2], has_batch=False),
            "scalar": echo_model("FP32", [], has_batch=False),
            "dynamic": echo_model("FP32", [-1, -1]),
            "image": echo_model("FP32", [-1, 1, 2, 2]),
            "two": version_route(
                [("a", "FP32", [-1, 2]), ("b", "INT64", [-1])], [("ya", "FP32", [-1, 2]), ("yb", "INT64", [-1])], output="ya"
            ),
        }.items()
    }
    flowers = version_route(
        [("x", "FP32", [-1, 3])], [("scores", "FP32", [-1, 3])], labels=["red", "green", "blue"], features=["r", "g", "b"]
    )
    found["flowers"] = model_route("flowers", flowers, task="tabular", owner="catalog")
    found["photos"] = model_route(
        "photos",
        version_route([("x", "FP32", [-1, 2])], [("scores", "FP32", [-1, 2])], labels=["cat", "dog"]),
        task="image-classification",
    )
    found["texts"] = model_route(
        "texts",
        version_route([("x", "BYTES", [-1])], [("scores", "FP32", [-1, 2])], labels=["en", "de"]),
        task="text-classification",
    )
    return found


class FakeGateway:
    """Answers every call with its own inputs on the next turn of the loop, like a gateway whose model is the identity.

    `hold`: calls are kept in `held` until the test lets them go. `fail_with`: the next calls fail so. `is_worn_out`:
    no organization has anything left of its allowance. Keys and models must be
    fetched once before memory knows them, as in the real one.
    """

    def __init__(self) -> None:
        self.access = self
        self.models = models()
        self.keys = {KEY: key_record(), READ_ONLY_KEY: key_record(scopes=["models:read"])}
        self.known: set = set()
        self.calls: list[Call] = []
        self.held: list[Call] = []
        self.abandoned: list[Call] = []
        self.hold = self.is_worn_out = False
        self.proofs = 0  # how often a presented key was looked at
        self.fail_with: errors.AppError | None = None
        self.stored: dict[str, tuple[bytes, object]] = {}
        self.price, self.cost_nano = FREE, 0  # of every call
        self.left: bytes | None = None

    def principal(self, presented):
        self.proofs += 1
        if presented not in self.keys:
            raise errors.ApiKeyInvalid()
        return self.keys[presented] if presented in self.known else None

    def is_current(self, record):
        return any(self.keys.get(presented) is record for presented in self.known)

    def allow(self, key):
        if self.is_worn_out:
            raise errors.RateLimited("The organization's limit is 1 request per second", retry_after=1, source="organization")

    async def fetch_principal(self, presented, address):
        await asyncio.sleep(0)
        self.known.add(presented)
        return self.principal(presented)

    def route(self, key, owner, name, *, scope="predictions:write"):
        if scope not in key.scopes:
            raise errors.ScopeMissing(f"The key has no scope {scope}")
        route = self.models.get(name)
        if route is None or owner not in (None, route.owner_slug):
            raise errors.NotFound(f"There is no model {name}")
        if key.models is not None and name not in key.models:
            raise errors.ModelNotAllowed()
        return route if name in self.known else None

    async def fetch_route(self, key, owner, name, *, scope="predictions:write"):
        await asyncio.sleep(0)
        self.known.add(name)
        return self.route(key, owner, name, scope=scope)

    def submit(self, call):
        self.calls.append(call)
        call.limits = [("key", 1000, 1, 999, 1)]
        call.price, call.cost_nano, call.left = self.price, self.cost_nano, self.left
        if self.fail_with:
            call.done(call, self.fail_with)
        elif call.idempotency_key in self.stored:
            fingerprint, rendered = self.stored[call.idempotency_key]
            call.is_replay = fingerprint == call.fingerprint
            call.done(call, rendered if call.is_replay else errors.IdempotencyKeyReused())
        elif self.hold:
            self.held.append(call)
        else:
            asyncio.get_running_loop().call_soon(self.finish, call)

    def finish(self, call):
        call.reply = reply(call)
        try:
            rendered = call.render(call, call.reply)
        except errors.AppError as error:
            call.done(call, error)
            return
        if call.idempotency_key:
            self.stored[call.idempotency_key] = call.fingerprint, rendered
        call.done(call, rendered)

    def abandon(self, call):
        self.abandoned.append(call)
        call.done = lambda call, outcome: None


def reply(call: Call) -> Reply:
    times = {"queue_us": 120, "compute_us": 45, "batch_rows": call.rows}
    if call.items is not None:
        ranked = [Prediction(label, 0.75 - 0.5 * place) for place, label in enumerate(call.version.labels)]
        return Reply(call.number, predictions=[ranked[: call.top] for _ in call.items], **times)
    outputs, is_finite = [], True
    for spec, (_, datatype, shape, data) in zip(call.version.outputs, call.inputs, strict=True):
        if not call.outputs or spec.name in call.outputs:
            outputs.append((spec.name, datatype, shape, data))
        if datatype in ("FP16", "FP32", "FP64"):
            is_finite = is_finite and bool(np.isfinite(np.frombuffer(data, DTYPES[datatype])).all())
    return Reply(call.number, outputs=outputs, is_finite=is_finite, **times)


class Served:
    """A running server; `base` is its address. The gateway is touched on the loop only (`on_loop`). `run` runs the loop."""

    def __init__(self, *, run=asyncio.run, **front_options) -> None:
        self._run_loop = run
        self.lines: list[dict] = []
        self._options = front_options
        self.other_app = None

    def __enter__(self) -> "Served":
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        self.base = f"127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=lambda: self._run_loop(self._run()), daemon=True)
        self.is_up = threading.Event()
        self.thread.start()
        assert self.is_up.wait(PATIENCE)
        until(lambda: self.server.started)
        return self

    def __exit__(self, *exc) -> None:
        self.server.should_exit = True
        self.thread.join(15)
        assert not self.thread.is_alive()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gateway = FakeGateway()
        self.front = Front(
            self.gateway,
            list_routes=lambda organization: list(self.gateway.models.values()) if organization == UUID("a" * 32) else [],
            is_ready=self._is_ready,
            request_log=RequestLog(write=self._write),
            **self._options,
        )
        config = uvicorn.Config(
            self._app,
            http="saas.protocol:FrontProtocol",
            interface="asgi3",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_keep_alive=60,
            server_header=False,
            proxy_headers=False,
        )
        self.server = FrontServer(config)
        self.is_up.set()
        await self.server.serve(sockets=[self.listener])

    async def _is_ready(self) -> bool:
        return True

    def _write(self, data: bytes) -> None:
        self.lines += [json.loads(line) for line in data.splitlines()]

    async def _app(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["front"] = self.front
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.front.log.close()
            await send({"type": "lifespan.shutdown.complete"})
            return

        target = target_in(scope)
        if target is not None:
            await answer(self.front, target, scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        text = b"django:%d" % len(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})

    def on_loop(self, function, *arguments):
        """Run `function` on the server's loop and return its result."""

        async def run():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def request(self, method, path, body=None, headers=None, *, key=KEY):
        """(status, headers by lower-case name, body) over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = dict(headers or {})
            if key:
                headers.setdefault("Authorization", f"Bearer {key}")
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def infer(self, model, body, headers=None, **kw):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, headers, data = self.request("POST", f"/v2/models/{model}/infer", body, headers, **kw)
        return status, headers, data if "inference-header-content-length" in headers else json.loads(data)

    def predict(self, model, body, headers=None, **kw):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, headers, data = self.request("POST", f"/api/v1/models/{model}/predict", body, headers, **kw)
        return status, headers, json.loads(data)

    def connect(self) -> "Raw":
        return Raw(self.port)


class Raw:
    """A bare connection, for what no client library would send."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent leaves, whatever was not acknowledged
        self.data = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *exc) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response; its body by Content-Length."""
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(self.data) < length:
            self._more()
        body, self.data = self.data[:length], self.data[length:]
        return int(lines[0].split()[1]), headers, body

    def _more(self) -> None:
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError("closed")
        self.data += received

    def is_closed(self) -> bool:
        """Wait until the server ends the connection."""
        try:
            while received := self.socket.recv(65536):
                self.data += received
        except ConnectionError:
            pass
        return True


def request_bytes(
    path: str, body: bytes = b"", *extra: str, method: str = "POST", key: str = KEY, length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", *extra]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def tensor(name="x", datatype="FP32", shape=(1, 4), data=(1, 2, 3, 4), **more):
    given = {"name": name, "datatype": datatype, "shape": list(shape), **more}
    if data is not None:
        given["data"] = list(data) if isinstance(data, tuple) else data
    return given
