"""The ASGI application of a gateway process: starts and stops the gateway, answers its routes, gives Django the rest.

Django runs as WSGI in `threads_web` threads that stay, so that its database connections do too. (Its own ASGI handler makes
a thread pool per request, and their connections with it.)
"""

import asyncio
import hmac
import ipaddress
import logging
import os
import sys
from functools import partial
from uuid import UUID

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "saas.settings")

from django.core.wsgi import get_wsgi_application

_django = get_wsgi_application()

import orjson  # noqa: E402  # Django has to be set up before what follows
from django.conf import settings  # noqa: E402
from django.db import close_old_connections  # noqa: E402

from inference.gateway import stored  # noqa: E402
from inference.gateway.exchange import Exchange  # noqa: E402
from inference.gateway.front import Front  # noqa: E402
from inference.gateway.health import Health  # noqa: E402
from inference.gateway.line import Gateway  # noqa: E402
from inference.gateway.metrics import Metrics  # noqa: E402
from inference.gateway.requestlog import RequestLog  # noqa: E402
from inference.gateway.targets import Target, target_of  # noqa: E402
from inference.registry import visible_routes  # noqa: E402
from inference.routes import ModelRoute  # noqa: E402
from saas.config import Config  # noqa: E402
from saas.lib import garbage, ids  # noqa: E402
from saas.lib.addresses import client_of  # noqa: E402
from saas.lib.errors import NotFound, PayloadTooLarge  # noqa: E402
from saas.management import Management, Message, Receive, Scope, Send, respond  # noqa: E402
from tenants.problems import problem  # noqa: E402

log = logging.getLogger(__name__)

STOP_GRACE = 0.5  # seconds: the server has let calls end already
SWITCH_SECONDS = 0.0005  # after which a thread gives the interpreter to the loop, which asks for it many times in a call
FORWARDED = {b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"}
PLAIN = b"text/plain; version=0.0.4; charset=utf-8"


class AsgiExchange(Exchange):
    """A request of the gateway's that came through ASGI; its answer is a future, None if the client left."""

    __slots__ = ("_address", "answer")

    def __init__(self, scope: Scope, target: Target) -> None:
        url = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        super().__init__(scope["method"].encode(), url, target, list(scope["headers"]))
        self._address = scope["client"][0] if scope.get("client") else ""
        self.answer: asyncio.Future[tuple[int, bytes, bytes] | None] = asyncio.get_running_loop().create_future()

    def address(self) -> str:
        return self._address

    def send(self, status: int, head: bytes, body: bytes) -> None:
        self.answer.set_result((status, head, body))


class Application:
    """One per process; `front` and `health` exist from the lifespan's startup on."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._management = Management(
            _django, threads=config.threads_web, body_max=config.body_max_bytes, spool_bytes=config.spool_bytes
        )
        self._gateway: Gateway | None = None
        self._front: Front | None = None
        self._health: Health | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http":
            assert self._front is not None
            path = scope["path"]
            if path in ("/livez", "/readyz", "/metrics"):
                await self._watch(path, scope, send)
                return
            if client := scope.get("client"):  # from here on, Django's REMOTE_ADDR included
                scope["client"] = (client_of(client[0], scope["headers"], self._config.trusted_proxies), client[1])
            if (target := target_in(scope)) is not None:
                await answer(self._front, target, scope, receive, send)
            else:
                front, send = self._front, self._once_heard(send)
                await self._management.answer(scope, receive, send, front.metrics, front.gateway.access.principal)

    def _once_heard(self, send: Send) -> Send:
        """Sends an answer once this process knows what it says has changed, so that the client's next call meets it."""

        async def send_later(message: Message) -> None:
            if message["type"] == "http.response.start" and self._gateway is not None:
                await self._gateway.lanes.hear_all()
            await send(message)

        return send_later

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["front"] = await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> Front:
        config = self._config
        sys.setswitchinterval(SWITCH_SECONDS)
        self._gateway = gateway = Gateway(
            state_url=config.state_url, lanes_url=config.lanes_url, lane_max_ms=config.lane_max_ms, stored=stored.Answers()
        )
        await gateway.start()
        self._front = front = Front(
            gateway,
            list_routes=list_routes,
            is_ready=self._is_ready,
            body_max=config.body_max_bytes,
            timeout_default=config.timeout_default,
            timeout_max=config.timeout_max,
            request_log=RequestLog(config.log_format),
            metrics=Metrics(str(os.getpid()) if config.gateway_processes > 1 else ""),
        )
        self._health = Health(gateway.books, gateway.lanes, front.metrics)
        garbage.settle()
        return front

    async def _stop(self) -> None:
        assert self._gateway is not None
        assert self._front is not None
        await self._gateway.stop(STOP_GRACE)
        await self._front.log.close()

    async def _is_ready(self) -> bool:
        return self._health is not None and await self._health.is_ready()

    async def _watch(self, path: str, scope: Scope, send: Send) -> None:
        """/livez, /readyz and /metrics, on the loop: busy threads must not make a process look dead."""
        assert self._health is not None
        given = dict(scope["headers"])
        request_id, (_, trace) = ids.request_id(given.get(b"x-request-id")), ids.trace(given.get(b"traceparent"))
        reply = partial(respond, send, request_id, trace)
        if path == "/livez":
            await reply(200, b"application/json", b'{"live":true}')
        elif path == "/readyz":
            checks = await self._health.checks()
            is_ready = all(checks.values())
            body = orjson.dumps({"ready": is_ready, "checks": checks})
            await reply(200 if is_ready else 503, b"application/json", body)
        elif may_scrape(scope, self._config.metrics_token.get_secret_value()):
            await reply(200, PLAIN, await self._health.metrics())
        else:
            body = orjson.dumps(problem(NotFound(), request_id))
            await reply(404, b"application/problem+json", body)


def target_in(scope: Scope) -> Target | None:
    """The gateway's route that a request of ASGI's is for; None: it is not the gateway's."""
    query: bytes = scope["query_string"]
    return target_of(scope["path"].encode() + (b"?" + query if query else b""))


async def answer(front: Front, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that is the gateway's, with the function that answers hot ones."""
    exchange = AsgiExchange(scope, target)

    def abandon() -> None:
        front.abandon(exchange)
        if not exchange.answer.done():
            exchange.answer.set_result(None)

    scope["abandon"] = abandon  # saas.protocol calls it when the client leaves
    if not await read_body(front, exchange, receive):
        return
    if not exchange.is_ended:
        front.handle(exchange)
    answered = await exchange.answer
    if answered is None:
        return
    status, head, body = answered
    headers = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n") if line]
    if status == 413:
        headers.append((b"connection", b"close"))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(front: Front, exchange: AsgiExchange, receive: Receive) -> bool:
    """Fill `exchange.body`; it is refused if it is too large. False if the client left."""
    declared = dict(exchange.request_headers).get(b"content-length", b"0")
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        if int(declared) > front.body_max or size > front.body_max:
            front.refuse(exchange, PayloadTooLarge(f"The body may have {front.body_max} bytes at most"))
            return True
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
    exchange.body = b"".join(chunks)
    if size > front.body_max:
        front.refuse(exchange, PayloadTooLarge(f"The body may have {front.body_max} bytes at most"))
    return True


def may_scrape(scope: Scope, token: str) -> bool:
    """Whether /metrics may be shown: to loopback without a proxy in between, or to who has the token.

    Behind a proxy on the same machine every peer is loopback, so any sign of a proxy asks for the token.
    """
    headers = dict(scope["headers"])
    given = headers.get(b"authorization", b"")
    if token and hmac.compare_digest(given, b"Bearer " + token.encode()):
        return True
    if FORWARDED & headers.keys() or scope.get("client") is None:
        return False
    try:
        return ipaddress.ip_address(scope["client"][0]).is_loopback
    except ValueError:
        return False


def list_routes(organization_id: UUID) -> list[ModelRoute]:
    """The models that an organization may see, read in a thread of its own."""
    close_old_connections()
    try:
        return visible_routes(organization_id)
    finally:
        close_old_connections()


application = Application(settings.CONFIG)
