"""How much JSON a body holds, counted before any of it is decoded: a byte of JSON can cost a hundred of memory."""

import re
from contextlib import suppress

import numpy as np

from saas.lib.errors import InvalidRequest
from saas.lib.jsontext import check_names

LIGHT = 64 << 10  # bytes that are decoded uncounted, on the loop: they cannot hold so much
MAX_ELEMENTS = 1_000_000
MAX_LISTS = 100_000  # lists and objects together; each is an object of its own in memory
MAX_MEMBERS = 100_000  # of objects
COMMA, COLON, LIST, OBJECT, QUOTE = b',:[{"'
INPUTS = b'"inputs"'
find_inputs = re.compile(rb'"inputs"\s*:').findall
INSTEAD = "Send several calls, or flat or binary tensors to /v2"


def check_json(body: bytes) -> None:
    """Raises InvalidRequest for a body that holds more than may be decoded, or that names its `inputs` twice.

    Too much may be counted, never too little. Other names are not looked at: of two members the last one counts.
    """
    if body.count(INPUTS) > 1 and len(find_inputs(body)) > 1:  # or some model's feature is called so
        with suppress(ValueError, RecursionError):  # whoever decodes it says what is wrong
            check_names(body)
    if len(body) <= LIGHT or _excess(body) is None:
        return
    if excess := _excess(_outside_strings(body)):  # texts may hold any number of commas
        raise InvalidRequest(f"The body has more than {excess}. {INSTEAD}")


def _excess(text: bytes) -> str | None:
    """Which limit is passed."""
    characters = np.frombuffer(text, "u1")  # numpy counts without holding up other threads

    def count(character: int) -> int:
        return int(np.count_nonzero(characters == character))

    if count(COMMA) >= MAX_ELEMENTS:
        return f"{MAX_ELEMENTS} elements"
    if count(LIST) + count(OBJECT) > MAX_LISTS:
        return f"{MAX_LISTS} lists and objects"
    if count(COLON) > MAX_MEMBERS:
        return f"{MAX_MEMBERS} members of objects"
    return None


def _outside_strings(body: bytes) -> bytes:
    """`body` without what stands in its strings, by the parity of the quotes before each character."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    characters = np.frombuffer(body, "u1")
    is_inside = np.add.accumulate(characters == QUOTE, dtype="u1") & 1
    outside: bytes = characters[is_inside == 0].tobytes()
    return outside
