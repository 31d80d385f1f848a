"""JSON from outside, read so that whatever is taken can be checked, stored and written again."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from saas.lib.errors import InvalidRequest

MAX_DEPTH = 100
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search  # an escape; as it is, it is no JSON
_MAY_BE_LONG = re.compile(rb"[0-9]{19}").search


def read(text: bytes, *, what: str = "The body", takes_nul: bool = True) -> Any:  # Any: JSON
    """The value of a JSON text (RFC 8259) in UTF-8. Raises InvalidRequest, with `what` in front, for anything else.

    That is also for a name that stands twice in an object, NaN, integers beyond 64 bits, numbers beyond a double, halves of
    surrogate pairs, and more than MAX_DEPTH levels of nesting; without `takes_nul` for U+0000, which PostgreSQL stores in no
    text.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not JSON: {error}") from None
    if _is_deep(value):
        raise InvalidRequest(f"{what} is nested too deeply: {MAX_DEPTH} levels at most")
    check_names(text, what=what, parse_int=_checked_int if _MAY_BE_LONG(text) else None)  # orjson would make a float of it
    if not takes_nul and _NUL(text):
        raise InvalidRequest(f"{what} has a NUL character (\\u0000) in a text")
    return value


def check_names(text: bytes, *, what: str = "The body", parse_int: Callable[[str], int] | None = None) -> None:
    """Raise InvalidRequest if an object of a JSON text names a member twice: who reads it may take either.

    ValueError, RecursionError: it is no JSON.
    """

    def check(members: list[tuple[str, Any]]) -> None:  # Any: JSON
        if len({name for name, _ in members}) != len(members):
            names = Counter(name for name, _ in members)
            raise InvalidRequest(f"{what} names {names.most_common(1)[0][0][:100]!r} twice in one object")

    json.loads(text, object_pairs_hook=check, parse_int=parse_int)


def _checked_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise InvalidRequest("An integer has more than 64 bits")
    return int(digits)


def _is_deep(value: Any) -> bool:  # Any: JSON
    """Whether there are more than MAX_DEPTH levels of lists and objects. Level by level: recursion would end in an error."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = [each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer)]
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True
