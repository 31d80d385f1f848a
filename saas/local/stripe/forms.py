"""Stripe's form encoding: `items[0][price]=price_1` is `{"items": [{"price": "price_1"}]}`. Every value is a text."""

import re
from typing import Any
from urllib.parse import parse_qsl

_PART = re.compile(r"\[([^\[\]]*)\]")
MOST_ITEMS = 1000


def decode(encoded: str) -> dict[str, Any]:
    """The nested dictionary of a query or a form. Raises ValueError for a key that contradicts another, or is not closed."""
    tree: dict[str, Any] = {}
    for key, value in parse_qsl(encoded, keep_blank_values=True, max_num_fields=5000):
        name, _, rest = key.partition("[")
        parts = [name, *_PART.findall("[" + rest)] if rest else [name]
        if rest and "[" + rest != "".join(f"[{part}]" for part in parts[1:]):
            raise ValueError(f"Invalid parameter name: {key}")
        place = tree
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"Invalid parameter: {key} has a value already")
        if isinstance(place.get(parts[-1]), dict):
            raise ValueError(f"Invalid parameter: {key} is an object already")
        place[parts[-1]] = value
    return {key: _lists(value) for key, value in tree.items()}


def _lists(value: Any) -> Any:
    """Dictionaries whose keys are 0, 1, 2 … (or one empty, as in `expand[]`) become lists."""
    if not isinstance(value, dict):
        return value
    if set(value) == {""}:
        return [_lists(value[""])]
    if value and all(key.isdigit() for key in value) and len(value) <= MOST_ITEMS:
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(inner) for key, inner in value.items()}
