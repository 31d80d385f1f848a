"""The metadata routes of the protocol: server, health, models and the repository index."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from inference.gateway import v2
from inference.gateway.access import check_scope
from inference.gateway.exchange import Exchange, Lookups
from inference.gateway.reading import known_version
from inference.routes import ModelRoute, VersionRoute

SCOPE = "models:read"
Answer = tuple[Any, int]
"""(what the body says, as JSON; status)"""


class Metadata:
    """`list_routes` gives the models that an organization may see (it may block); `is_ready`: could an answer be given?"""

    def __init__(
        self, access: Lookups, list_routes: Callable[[UUID], list[ModelRoute]], is_ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._access, self._list_routes, self._is_ready = access, list_routes, is_ready
        self.kinds: dict[str, Callable[[Exchange], Awaitable[Answer]]] = {
            "server": self._server,
            "live": self._live,
            "ready": self._ready,
            "index": self._index,
            "metadata": self._metadata,
            "model_ready": self._model_ready,
        }

    async def answer(self, exchange: Exchange) -> Answer:
        """What the route that `exchange` asks for says. Raises AppError."""
        return await self.kinds[exchange.target.kind](exchange)

    async def _server(self, exchange: Exchange) -> Answer:
        return v2.SERVER, 200

    async def _live(self, exchange: Exchange) -> Answer:
        return {"live": True}, 200

    async def _ready(self, exchange: Exchange) -> Answer:
        is_ready = await self._is_ready()
        return {"ready": is_ready}, 200 if is_ready else 503

    async def _index(self, exchange: Exchange) -> Answer:
        key = await exchange.find_key(self._access)
        check_scope(key, SCOPE)
        is_ready_only = v2.read_index(exchange.body)
        loop = asyncio.get_running_loop()
        routes = await loop.run_in_executor(None, self._list_routes, UUID(hex=key.organization))
        routes = [route for route in routes if key.may_call(route.full_name, route.name)]
        return v2.repository_index(routes, own=key.slug, is_ready_only=is_ready_only), 200

    async def _metadata(self, exchange: Exchange) -> Answer:
        route, version = await self._version(exchange)
        return v2.metadata(exchange.target.called, route, version), 200

    async def _model_ready(self, exchange: Exchange) -> Answer:
        _, version = await self._version(exchange)
        return {"name": exchange.target.called, "ready": version.state == "ready"}, 200

    async def _version(self, exchange: Exchange) -> tuple[ModelRoute, VersionRoute]:
        await exchange.find_key(self._access)
        route = exchange.route = await exchange.find_route(self._access, SCOPE)
        version = exchange.version = known_version(route, exchange.target)
        return route, version
