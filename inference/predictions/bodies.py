"""The body of POST /predictions: its input stays the JSON text that came, since a byte of JSON can be a hundred of objects."""

import codecs
from typing import Any

import msgspec
from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from inference.gateway.weight import check_json
from saas.lib import jsontext
from saas.lib.errors import InvalidRequest
from tenants.bodies import Body, FingerprintParser

PIECE = 1 << 20  # bytes of text that are looked at in one go
NULL = msgspec.Raw(b"null")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Text:
    """Valid JSON that nobody has decoded. `take` leaves nothing behind: Django's request outlives its answer."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def take(self) -> bytes:
        text, self._text = self._text, b""
        return text


class PredictionParser(FingerprintParser):
    """Gives the members of an object; `input` is a Text."""

    max_bytes = settings.CONFIG.body_max_bytes

    def decode(self, body: bytes) -> Any:  # Any: JSON
        check_json(body)
        try:
            _check_utf8(body)
            members = _members(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"The body must be a JSON object: {error}") from None
        return {
            name: Text(bytes(value)) if name == "input" and value != NULL else _read(name, value)
            for name, value in members.items()
        }


def _read(name: str, value: msgspec.Raw) -> Any:  # Any: JSON
    return jsontext.read(bytes(value), what=f"The field {name[:100]}")


def _check_utf8(text: bytes) -> None:
    """Raises UnicodeDecodeError. The decoder leaves it out in what stays undecoded."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(text), PIECE):
        decoder.decode(text[at : at + PIECE])
    decoder.decode(b"", final=True)


@extend_schema_field(OpenApiTypes.ANY)
class TextField(serializers.Field):  # type: ignore[type-arg]  # its four types say nothing here
    """A Text as it is."""

    def to_internal_value(self, data: Text) -> Text:
        return data


class PredictionBody(Body):
    model = serializers.CharField(max_length=127, help_text="`name` or `organization/name`.")
    version = serializers.CharField(max_length=63, required=False, help_text="A number or alias; default `production`.")
    endpoint = serializers.ChoiceField(["predict", "infer"], default="predict", help_text="Which call's body `input` is.")
    input = TextField(help_text='The body of that call, for example {"inputs": [[5.1, 3.5, 1.4, 0.2]]}.')
