"""Which of the gateway's routes a path is."""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from saas.lib.errors import AppError, NotFound, ValidationFailed
from saas.lib.names import ROUTE_WORDS

V2, API = "v2", "api"
MAX_KNOWN = 10_000
MAX_PATH = 1000  # bytes of a path that is remembered
OTHER_FORMAT = "other_format"
_ASKS_FOR_ANOTHER = re.compile(rb"(?:^|&)format=(?!json(?:&|$))").search


class Target(NamedTuple):
    """`kind`: infer, predict, server, live, ready, index, metadata, model_ready, unknown, other_format; `dialect`: of errors"""

    kind: str
    dialect: str
    method: bytes
    owner: str | None = None
    name: str = ""
    version: str | None = None  # a number or an alias
    called: str = ""  # the model as it was named in the path


SERVER_TARGETS = {
    (): Target("server", V2, b"GET"),
    (b"health", b"live"): Target("live", V2, b"GET"),
    (b"health", b"ready"): Target("ready", V2, b"GET"),
    (b"repository", b"index"): Target("index", V2, b"POST"),
}
UNKNOWN = Target("unknown", V2, b"")
_known: dict[bytes, Target | None] = {}


def target_of(url: bytes) -> Target | None:
    """The gateway's route behind a request target (path and query); None: the path is not the gateway's."""
    try:
        return _known[url]
    except KeyError:
        path, _, query = url.partition(b"?")
        target = _parsed(unquote_to_bytes(path) if b"%" in path else path)
        if target is not None and target is not UNKNOWN and _ASKS_FOR_ANOTHER(query):
            target = target._replace(kind=OTHER_FORMAT)
        if len(url) <= MAX_PATH and target is not UNKNOWN and target is not None:
            if len(_known) >= MAX_KNOWN:
                _known.clear()
            _known[url] = target
        return target


def _parsed(path: bytes) -> Target | None:
    parts = tuple(path.strip(b"/").split(b"/"))
    if parts[0] == b"v2":
        if parts[1:2] != (b"models",) or len(parts) < 3:
            return SERVER_TARGETS.get(parts[1:], UNKNOWN)
        return _model(parts[2:]) or UNKNOWN
    if parts[:3] == (b"api", b"v1", b"models") and parts[-1] == b"predict":
        return _model(parts[3:], dialect=API)
    return None


def _model(parts: tuple[bytes, ...], dialect: str = V2) -> Target | None:
    """{model}[/versions/{v}][/verb], where {model} is a name or owner/name."""
    kind, method = "metadata", b"GET"
    if len(parts) > 1 and dialect == V2 and parts[-1] in (b"infer", b"ready"):
        kind, method = ("infer", b"POST") if parts[-1] == b"infer" else ("model_ready", b"GET")
        parts = parts[:-1]
    elif dialect == API and len(parts) > 1:
        kind, method, parts = "predict", b"POST", parts[:-1]
    elif dialect == API:
        return None  # /api/v1/models/predict is a model's name to the management API
    version = None
    if len(parts) >= 3 and parts[-2] == b"versions":
        version, parts = parts[-1].decode("latin-1"), parts[:-2]
    if not 1 <= len(parts) <= 2 or not all(parts):
        return None
    names = [part.decode("latin-1") for part in parts]
    if names[-1] in ROUTE_WORDS:
        return None  # …/stats, …/config and others that this dialect does not have
    return Target(kind, dialect, method, names[0] if len(names) == 2 else None, names[-1], version, "/".join(names))


def refusal(target: Target) -> AppError:
    """Why there is no answer to what is no route, or asks for a form that there is not."""
    if target.kind == OTHER_FORMAT:
        detail = "The only one here is json: leave it out, or say format=json."
        return ValidationFailed(f"format: {detail}", errors=[{"field": "format", "detail": detail}])
    return NotFound("There is no such route" if target.dialect == API else "This route of the protocol is not supported here")
