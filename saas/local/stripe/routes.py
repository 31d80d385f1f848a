"""Which function answers which request, and which does what falls due."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saas.local.stripe.world import World

Json = dict[str, Any]
Handler = Callable[..., Json]
Work = Callable[["World", str], None]

_ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []
WORK: dict[str, Work] = {}


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """`handler(world, params, **names)` answers `method` on `path`, whose `{names}` are given to it."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))

    def add(handler: Handler) -> Handler:
        _ROUTES.append((method, pattern, handler))
        return handler

    return add


def work(name: str) -> Callable[[Work], Work]:
    """`function(world, id)` does what was put off with `world.later(at, name, id)`."""

    def add(function: Work) -> Work:
        WORK[name] = function
        return function

    return add


def find(method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
    """The handler of a request with the names in its path: the one that has the fewest of them."""
    matches = [(handler, pattern.fullmatch(path)) for wanted, pattern, handler in _ROUTES if wanted == method]
    found = [(handler, match.groupdict()) for handler, match in matches if match]
    return min(found, key=lambda pair: len(pair[1]), default=None)
