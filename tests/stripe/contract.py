"""What the pinned SDK says a request may hold: parsed from its service classes, checked against each request of ours.

The SDK is generated from Stripe's own description. `endpoints()` reads which request type belongs to (method, path);
`problems()` checks parameters against it, and against limits that the types do not say. Enumerations of the SDK are open
(`Literal | str`): here they are closed.
"""

import ast
import functools
import importlib
import re
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import stripe
from stripe._request_options import RequestOptions
from typing_extensions import is_typeddict  # which also knows the SDK's own, on every Python

PACKAGE = Path(stripe.__file__).parent
OPTIONS = frozenset(RequestOptions.__annotations__)  # of a call, not of its body
_WHOLE = re.compile(r"-?\d+").fullmatch
_DECIMAL = re.compile(r"-?\d+(\.\d+)?").fullmatch

# By hand, from the documentation: the types have no maxima. (path of the parameter, longest text or most items)
LENGTHS = {
    ("/v1/billing/meter_events", "identifier"): 100,
    ("/v1/billing/meter_event_adjustments", "cancel.identifier"): 100,
    ("/v1/billing/meters", "event_name"): 100,
    ("/v1/billing/meters", "display_name"): 250,
    ("/v1/subscriptions", "items"): 20,
    ("/v1/checkout/sessions", "line_items"): 20,
    ("/v1/checkout/sessions", "client_reference_id"): 200,
    ("/v1/prices", "lookup_key"): 200,
}
METADATA_KEYS, METADATA_KEY, METADATA_VALUE = 50, 40, 500
DECIMALS, DIGITS = 12, 15
IDEMPOTENCY_KEY = 255


@functools.cache
def endpoints() -> dict[tuple[str, str], str]:
    """(method, path with {names}) → `module:class` of its request type, "" where it takes none."""
    found: dict[tuple[str, str], str] = {}
    for file in sorted(PACKAGE.rglob("*_service.py")):
        tree = ast.parse(file.read_text())
        modules = {
            alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for method, path in _requests(function):
                    name = _params_type(function)
                    found[method.upper(), path] = f"{modules[name]}:{name}" if name else ""
    return found


def _requests(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_request":
            method, path = node.args[:2]
            if isinstance(path, ast.Call) and isinstance(path.func, ast.Attribute):  # "…{invoice}…".format(…)
                path = path.func.value
            if isinstance(method, ast.Constant) and isinstance(path, ast.Constant):
                yield method.value, path.value


def _params_type(function: ast.FunctionDef) -> str:
    for argument in function.args.args:
        if argument.arg == "params" and argument.annotation is not None:
            names = [node.value for node in ast.walk(argument.annotation) if isinstance(node, ast.Constant)]
            return names[0] if names else ""
    return ""


@functools.cache
def _patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    return [(method, path, re.compile(re.sub(r"\{\w+\}", "[^/]+", path))) for method, path in endpoints()]


def endpoint_of(method: str, path: str) -> tuple[str, str] | None:
    """The endpoint that a request goes to; a path without names wins over one with. None: the SDK has none."""
    hits = [(m, p) for m, p, pattern in _patterns() if m == method.upper() and pattern.fullmatch(path)]
    return min(hits, key=lambda hit: hit[1].count("{"), default=None)


@functools.cache
def _hints(typed: Any) -> dict[str, Any]:
    """The keys of a request type, without a call's options: their types are not all there when the program runs."""
    annotations = {key: hint for key, hint in typed.__annotations__.items() if key not in OPTIONS}
    holder = type("Holder", (), {"__annotations__": annotations})
    return get_type_hints(holder, vars(sys.modules[typed.__module__]))


def problems(method: str, path: str, params: dict[str, Any], *, is_wire: bool = False) -> list[str]:
    """What the SDK's request type does not allow; [] if all is well.

    `is_wire`: the parameters were read back from a form, so that every value is a text; else they are as our code wrote them.
    """
    endpoint = endpoint_of(method, path)
    if endpoint is None:
        return [f"{method.upper()} {path}: the SDK knows no such request"]
    where = f"{method.upper()} {endpoint[1]}"
    name = endpoints()[endpoint]
    if not name:
        return [f"{where}: takes no {key}" for key in params]
    module, _, klass = name.partition(":")
    typed = getattr(importlib.import_module(module), klass)
    body = {key: value for key, value in params.items() if is_wire or key not in OPTIONS}
    found = list(_dictionary(typed, body, "", is_wire)) + list(_limits(endpoint[1], body))
    return [f"{where}: {problem}" for problem in found]


def _dictionary(typed: Any, value: Any, at: str, is_wire: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at or 'the body'} is {value!r}, not a dictionary"
        return
    hints = _hints(typed)
    for key in typed.__required_keys__ - OPTIONS - set(value):
        yield f"{_join(at, key)} is missing"
    for key, inner in value.items():
        if key not in hints:
            yield f"{_join(at, key)} is unknown"
        else:
            yield from _value(hints[key], inner, _join(at, key), is_wire)


def _value(hint: Any, value: Any, at: str, is_wire: bool) -> Iterator[str]:
    options = _options(hint)
    attempts = [list(_one(option, value, at, is_wire)) for option in options]
    if all(attempts):
        yield from min(attempts, key=len)


def _options(hint: Any) -> list[Any]:
    """The alternatives of a union. Beside a Literal, a `str` only keeps the enumeration open: it is left out."""
    if get_origin(hint) not in (Union, types.UnionType):
        return [hint]
    parts = [part for part in get_args(hint) if part is not type(None) and not _is_stripe_object(part)]
    if any(get_origin(part) is Literal and any(get_args(part)) for part in parts):
        parts = [part for part in parts if part is not str]
    return parts


def _is_stripe_object(hint: Any) -> bool:
    return "StripeObject" in getattr(get_origin(hint) or hint, "__name__", "")


def _one(hint: Any, value: Any, at: str, is_wire: bool) -> Iterator[str]:
    origin = get_origin(hint)
    if is_typeddict(hint):
        yield from _dictionary(hint, value, at, is_wire)
    elif origin is Literal:
        if value not in get_args(hint):
            yield f"{at} is {value!r}, not one of {get_args(hint)}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{at} is {value!r}, not a list"
        else:
            for number, inner in enumerate(value):
                yield from _value(get_args(hint)[0], inner, f"{at}[{number}]", is_wire)
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{at} is {value!r}, not a dictionary"
        else:
            for key, inner in value.items():
                yield from _value(get_args(hint)[1], inner, _join(at, key), is_wire)
    elif not (_reads_as(hint, value) if is_wire else _is_instance(hint, value)):
        yield f"{at} is {value!r}, not {getattr(hint, '__name__', hint)}"


def _is_instance(hint: Any, value: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Decimal and isinstance(value, str):  # as it is sent: the SDK would write a small Decimal with an exponent
        return bool(_DECIMAL(value))
    return hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool)))


def _reads_as(hint: Any, value: Any) -> bool:
    if hint is int:
        return isinstance(value, str) and bool(_WHOLE(value))
    if hint in (float, Decimal):
        return isinstance(value, str) and bool(_DECIMAL(value))
    if hint is bool:
        return value in ("true", "false", True, False)
    return hint is Any or isinstance(value, str)


def _limits(path: str, body: dict[str, Any]) -> Iterator[str]:
    for (where, name), most in LENGTHS.items():
        value: Any = body
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if where == path and isinstance(value, str | list) and len(value) > most:
            yield f"{name} has {len(value)} of at most {most}"
    yield from _metadata(body)
    yield from _decimals(body)
    if path == "/v1/billing/meter_events":
        payload = body.get("payload")
        value = payload.get("value") if isinstance(payload, dict) else None
        if isinstance(value, str) and (not _WHOLE(value) or len(value.lstrip("-")) > DIGITS):
            yield f"payload.value is {value!r}, not a whole number of at most {DIGITS} digits"
    if path == "/v1/billing/meters" and isinstance(body.get("event_time_window"), str):
        yield "event_time_window overwrites within its window: it is not to be used"


def _metadata(body: dict[str, Any]) -> Iterator[str]:
    for key, value in body.items():
        if key == "metadata" and isinstance(value, dict):
            if len(value) > METADATA_KEYS:
                yield f"metadata has {len(value)} of at most {METADATA_KEYS} keys"
            for name, text in value.items():
                if len(name) > METADATA_KEY or len(str(text)) > METADATA_VALUE:
                    yield f"metadata.{name} is longer than Stripe takes"
        elif isinstance(value, dict):
            yield from _metadata(value)


def _decimals(body: Any) -> Iterator[str]:
    if isinstance(body, list):
        for item in body:
            yield from _decimals(item)
    elif isinstance(body, dict):
        for key, value in body.items():
            if key.endswith("_decimal") and isinstance(value, str | Decimal):
                if "e" in str(value).lower() or len(str(value).partition(".")[2]) > DECIMALS:
                    yield f"{key} is {value}: at most {DECIMALS} decimals, without an exponent"
            else:
                yield from _decimals(value)


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
