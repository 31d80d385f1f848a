"""A load of mixed calls with known ids, and the checker of what must hold afterwards (docs/architecture.md, Exactly once)."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp
import numpy as np

IRIS = [[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5], [6.3, 3.3, 6.0, 2.5]]
SPECIES = ["setosa", "versicolor", "virginica"]


@dataclass(frozen=True)
class Caller:
    organization: str  # UUID, hexadecimal
    key: str  # as presented
    model: str  # a private identity model of the organization: x (n, 3) float32 → y


@dataclass
class Sent:
    """One request of the history. `status` is None while nothing came back: it may or may not have been charged."""

    caller: Caller
    kind: str
    request_id: str
    idempotency_key: str | None = None
    status: int | None = None
    is_replay: bool = False
    is_right: bool = True
    detail: str = ""


@dataclass
class History:
    sent: list[Sent] = field(default_factory=list)

    def statuses(self) -> Counter[tuple[str, int | None]]:
        return Counter((s.kind, s.status) for s in self.sent)


class Load:
    """Mixed calls of several callers; every answer is compared with what it must be."""

    def __init__(self, base_url: str, callers: list[Caller], *, seed: int, timeout: float = 10.0) -> None:
        self.base_url, self.callers, self.timeout = base_url, callers, timeout
        self.random = random.Random(seed)
        self.history = History()
        self.answered = 0
        self.is_stopped = False
        self.used_keys: dict[str, list[tuple[str, int]]] = defaultdict(list)

    async def run(self, count: int, *, in_flight: int) -> History:
        """Send `count` calls, or as many as fit until `stop` is called, `in_flight` at a time."""
        left = iter(range(count))
        connector = aiohttp.TCPConnector(limit=in_flight)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=self.timeout)) as session:
            await asyncio.gather(*(self._caller(session, left) for _ in range(in_flight)))
        return self.history

    def stop(self) -> None:
        self.is_stopped = True

    async def _caller(self, session: aiohttp.ClientSession, left: Iterable[int]) -> None:
        for number in left:
            if self.is_stopped:
                return
            await self._one(session, number)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        caller = self.random.choice(self.callers)
        kind = self.random.choices(
            ["infer", "predict", "binary", "keyed", "again", "bad", "foreign", "nobody"], [30, 20, 20, 10, 5, 6, 5, 4]
        )[0]
        sent = Sent(caller, kind, uuid4().hex)
        self.history.sent.append(sent)
        try:
            await getattr(self, f"_{kind}")(session, sent, number)
        except (aiohttp.ClientError, TimeoutError) as error:
            sent.status, sent.detail = None, repr(error)
            await asyncio.sleep(0.02)

    def _headers(self, sent: Sent, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {sent.caller.key}", "X-Request-Id": sent.request_id, **more}

    async def _post(self, session: aiohttp.ClientSession, sent: Sent, path: str, **kw) -> tuple[aiohttp.ClientResponse, bytes]:
        async with session.post(self.base_url + path, **kw) as response:
            body = await response.read()
            sent.status = response.status
            self.answered += sent.status == 200
            sent.is_replay = response.headers.get("Idempotent-Replayed") == "true"
            if response.status >= 400:
                sent.detail = body[:200].decode(errors="replace")
            return response, body

    async def _infer(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        await self._identity(session, sent, number, {})

    async def _identity(self, session: aiohttp.ClientSession, sent: Sent, number: int, headers: dict[str, str]) -> None:
        mark = [[float(number), float(hash(sent.caller.key) % 10_000), 0.5]]
        body = {"id": sent.request_id, "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": mark}]}
        path = f"/v2/models/{sent.caller.model}/infer"
        response, _ = await self._post(session, sent, path, json=body, headers=self._headers(sent, **headers))
        if sent.status == 200:
            answer = await response.json()
            got = np.array(answer["outputs"][0]["data"], "f4").reshape(-1, 3).tolist()
            sent.is_right = got == np.array(mark, "f4").tolist() and answer["id"] == sent.request_id

    async def _binary(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        rows = self.random.randint(1, 4)
        mark = np.array([[number, r, hash(sent.caller.key) % 10_000] for r in range(rows)], "<f4")
        tensor = {"name": "x", "shape": [rows, 3], "datatype": "FP32", "parameters": {"binary_data_size": mark.nbytes}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = self._headers(sent, **{"Inference-Header-Content-Length": str(len(head))})
        path = f"/v2/models/{sent.caller.model}/infer"
        response, body = await self._post(session, sent, path, data=head + mark.tobytes(), headers=headers)
        if sent.status == 200:
            start = int(response.headers["Inference-Header-Content-Length"])
            sent.is_right = body[start:] == mark.tobytes()

    async def _predict(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        which = number % 3
        path = "/api/v1/models/iris/predict"
        response, _ = await self._post(session, sent, path, json={"inputs": [IRIS[which]]}, headers=self._headers(sent))
        if sent.status == 200:
            sent.is_right = (await response.json())["predictions"][0]["label"] == SPECIES[which]

    async def _keyed(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        sent.idempotency_key = uuid4().hex
        self.used_keys[sent.caller.key].append((sent.idempotency_key, number % 3))
        await self._keyed_predict(session, sent, number % 3)

    async def _again(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        """A retry of an earlier keyed call: the same key and body."""
        used = self.used_keys[sent.caller.key]
        if not used:
            sent.kind = "predict"
            await self._predict(session, sent, number)
            return
        sent.idempotency_key, which = self.random.choice(used)
        await self._keyed_predict(session, sent, which)

    async def _keyed_predict(self, session: aiohttp.ClientSession, sent: Sent, which: int) -> None:
        headers = self._headers(sent, **{"Idempotency-Key": sent.idempotency_key or ""})
        path = "/api/v1/models/iris/predict"
        response, _ = await self._post(session, sent, path, json={"inputs": [IRIS[which]]}, headers=headers)
        if sent.status == 200:
            sent.is_right = (await response.json())["predictions"][0]["label"] == SPECIES[which]

    async def _bad(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": ["1", "2", "3"]}]}
        await self._post(session, sent, f"/v2/models/{sent.caller.model}/infer", json=body, headers=self._headers(sent))
        sent.is_right = sent.status != 200

    async def _foreign(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        """Somebody else's private model: it does not exist."""
        others = [c for c in self.callers if c.organization != sent.caller.organization]
        model = self.random.choice(others).model
        body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
        await self._post(session, sent, f"/v2/models/{model}/infer", json=body, headers=self._headers(sent))
        sent.is_right = sent.status != 200

    async def _nobody(self, session: aiohttp.ClientSession, sent: Sent, number: int) -> None:
        headers = self._headers(sent) | {"Authorization": f"Bearer {sent.caller.key[:-1]}"}
        await self._post(session, sent, "/api/v1/models/iris/predict", json={"inputs": [IRIS[0]]}, headers=headers)
        sent.is_right = sent.status != 200


def check(history: History, rows: list[tuple[str, str, str]], *, is_disturbed: bool = False) -> list[str]:
    """What does not hold. `rows` are (request id, kind, mode) of all ledger rows of the callers.

    `is_disturbed`: a process was killed meanwhile. Then an answered call's row may be `reversed`, and a call without an
    answer may have a row only if it carried an Idempotency-Key (its result is stored) or its connection broke.
    """
    by_request: dict[str, list[str]] = defaultdict(list)
    for request_id, kind, _ in rows:
        by_request[request_id].append(kind)
    problems = []
    for sent in history.sent:
        kinds = by_request.pop(sent.request_id, [])
        if not sent.is_right:
            problems.append(f"{sent.kind} {sent.request_id}: a wrong answer, status {sent.status}")
        if sent.status == 200 and not sent.is_replay:
            allowed = [["usage"], ["reversed"]] if is_disturbed else [["usage"]]
            if kinds not in allowed:
                problems.append(f"{sent.kind} {sent.request_id}: answered, rows {kinds}")
        elif sent.status is None:
            if len(kinds) > 1:
                problems.append(f"{sent.kind} {sent.request_id}: no answer, rows {kinds}")
        elif "usage" in kinds:
            problems.append(f"{sent.kind} {sent.request_id}: status {sent.status} replay={sent.is_replay}, rows {kinds}")
    problems += [f"row of an unknown request {request_id}: {kinds}" for request_id, kinds in by_request.items()]
    return problems
