"""The load of a drill: mixed calls with known request ids, each with numbers that no other request has."""

import asyncio
import itertools
import json
import random
import time
from collections import defaultdict
from uuid import uuid4

import aiohttp
import numpy as np

from saas.lib.money import nano_of
from tests.drill.evidence import Caller, Cap, Mark, Request

KINDS = {
    "json": 22, "shared": 16, "binary": 16, "friendly": 16, "keyed": 10, "again": 6,
    "bad": 4, "foreign": 3, "nobody": 3, "prediction": 1,
}  # fmt: skip
SHARED = "catalog/identity"
HEARD_WITHIN = 45.0  # seconds, after which a client gives up
ANSWER_WITHIN = 10  # seconds, as X-Request-Timeout
PAUSE = 0.1  # seconds after a call that got no answer, or was refused for an outage
KEPT_KEYS = 100  # of each caller, for retries


class Load:
    """`run()` calls until it is stopped; `requests` is the history."""

    def __init__(self, base_url: str, callers: list[Caller], *, seed: int) -> None:
        self.base_url, self.callers, self.random = base_url, callers, random.Random(seed)
        self.requests: list[Request] = []
        self.is_stopping = False
        self._numbers = itertools.count(1)
        self._keyed: dict[Caller, list[Request]] = defaultdict(list)

    async def run(self, in_flight: int) -> None:
        async with self._session() as session:
            await asyncio.gather(*(self._client(session) for _ in range(in_flight)))

    def stop(self) -> None:
        self.is_stopping = True

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self.is_stopping:
            kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
            request = await self.call(session, self.random.choice(self.callers), kind)
            if request.status in (None, 503):
                await asyncio.sleep(PAUSE)

    async def probe(self, caller: Caller) -> bool:
        """Whether a plain call is answered just now. It is part of the history."""
        async with self._session() as session:
            return (await self.call(session, caller, "json")).status == 200

    async def call_once_more(self, callers: list[Caller]) -> None:
        """At rest, when it can be said to the unit what is left."""
        async with self._session() as session:
            for caller in callers:
                await self.call(session, caller, "json")

    async def settle_keys(self) -> None:
        """Retry each keyed call until its key has an answer: a stored one is replayed, one that never ran runs now."""
        groups = defaultdict(list)
        for request in self.requests:
            if request.idempotency_key is not None and request.kind != "prediction":
                groups[request.caller, request.idempotency_key].append(request)
        unanswered = [group[0] for group in groups.values() if all(request.status != 200 for request in group)]
        async with self._session() as session:
            for first in unanswered:
                await self._until_settled(session, first)

    async def _until_settled(self, session: aiohttp.ClientSession, first: Request) -> None:
        for _ in range(20):
            request = await self.call(session, first.caller, "again", first)
            if request.status in (200, 402, 429):  # answered, or its cap is reached
                return
            await asyncio.sleep(0.5)

    async def call(self, session: aiohttp.ClientSession, caller: Caller, kind: str, earlier: Request | None = None) -> Request:
        if kind == "again" and earlier is None:
            earlier = self.random.choice(self._keyed[caller]) if self._keyed[caller] else None
            kind = "again" if earlier else "keyed"
        rows = self.random.randint(1, 4) if kind == "binary" else 1
        mark = earlier.mark if earlier else self._new_mark(caller, rows)
        request = Request(caller, kind, uuid4().hex, mark)
        self._give_key(request, earlier)
        self.requests.append(request)
        request.sent_at = time.monotonic()
        try:
            await self._send(session, request)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            request.status = None
        request.ended_at = time.monotonic()
        return request

    def _new_mark(self, caller: Caller, rows: int) -> Mark:
        """Exact as float32, and different for each row of each request."""
        who = float(self.callers.index(caller))
        numbers = [divmod(next(self._numbers), 1 << 20) for _ in range(rows)]
        return tuple(itertools.chain.from_iterable((float(low), float(high), who) for high, low in numbers))

    def _give_key(self, request: Request, earlier: Request | None) -> None:
        if earlier is not None:
            request.idempotency_key = earlier.idempotency_key
        elif request.kind == "keyed" or (request.kind == "prediction" and self.random.random() < 0.5):
            request.idempotency_key = uuid4().hex
        if request.kind == "keyed":
            self._keyed[request.caller] = [*self._keyed[request.caller], request][-KEPT_KEYS:]

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        path, headers, body = self._message(request)
        async with session.post(self.base_url + path, data=body, headers=headers) as response:
            content = await response.read()
            request.is_replay = response.headers.get("Idempotent-Replayed") == "true"
            request.status = response.status
            if response.status >= 400:
                request.code, request.cap = _refusal(content)
            elif response.status == 200:
                request.got = _numbers(request.kind, content, response.headers)
                if request.got == request.mark:
                    request.got = request.mark  # one tuple, not two: histories are long

    def _message(self, request: Request) -> tuple[str, dict[str, str], bytes]:
        presented = request.caller.presented[:-1] if request.kind == "nobody" else request.caller.presented
        headers = {
            "Authorization": f"Bearer {presented}",
            "X-Request-Id": request.request_id,
            "Content-Type": "application/json",
        }
        headers["X-Request-Timeout"] = str(ANSWER_WITHIN)
        if request.idempotency_key:
            headers["Idempotency-Key"] = request.idempotency_key
        model = request.caller.model
        if request.kind == "binary":
            body, length = _binary(request)
            return f"/v2/models/{model}/infer", headers | {"Inference-Header-Content-Length": str(length)}, body
        if request.kind == "friendly":
            return f"/api/v1/models/{model}/predict", headers, json.dumps({"inputs": _rows(request.mark)}).encode()
        if request.kind == "prediction":
            wanted = {"model": model, "endpoint": "infer", "input": _tensor(request)}
            return "/api/v1/predictions", headers, json.dumps(wanted).encode()
        if request.kind == "foreign":
            model = next(c.model for c in self.callers if c.organization != request.caller.organization)
        if request.kind == "shared":
            model = SHARED
        return f"/v2/models/{model}/infer", headers, json.dumps(_tensor(request)).encode()

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=HEARD_WITHIN))


def _rows(mark: Mark) -> list[list[float]]:
    return np.reshape(mark, (-1, 3)).tolist()


def _tensor(request: Request) -> dict:
    data = ["1", "2", "3"] if request.kind == "bad" else list(request.mark)
    return {"inputs": [{"name": "x", "shape": [len(data) // 3, 3], "datatype": "FP32", "data": data}]}


def _binary(request: Request) -> tuple[bytes, int]:
    numbers = np.array(request.mark, "<f4").tobytes()
    tensor = {"name": "x", "shape": [len(request.mark) // 3, 3], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(numbers)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + numbers, len(head)


def _numbers(kind: str, content: bytes, headers) -> Mark:
    """The numbers of an answer, row after row."""
    if kind == "binary":
        return tuple(np.frombuffer(content[int(headers["Inference-Header-Content-Length"]) :], "<f4").tolist())
    answer = json.loads(content)
    if kind == "friendly":
        return tuple(number for row in answer["predictions"] for number in row)
    return tuple(answer["outputs"][0]["data"])


def _refusal(content: bytes) -> tuple[str, Cap | None]:
    """Its code, and the limit on money that it names."""
    try:
        body = json.loads(content)
        cap = body.get("cap")
        if cap and "currency" in cap:
            return body["code"], Cap(cap["name"], body["limit_source"], nano_of(cap["limit"]), nano_of(cap["left"]))
        return str(body.get("code", "")), None
    except ValueError:
        return content[:80].decode(errors="replace"), None
