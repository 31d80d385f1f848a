"""Base of request bodies: unknown fields are refused, texts can be stored, every complaint names its field."""

import io
from collections.abc import Mapping
from typing import IO, Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.parsers import BaseParser, JSONParser

from saas.lib.errors import InvalidRequest, PayloadTooLarge
from saas.lib.ids import shown


class JSONBodyParser(BaseParser):
    """DRF's parser with a limit: a larger body is refused before it is read. Raises PayloadTooLarge.

    It is not a JSONParser itself, because DRF reads the whole body before it asks one.
    """

    media_type = JSONParser.media_type
    max_bytes: int = 1 << 20

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:  # Any: JSON, and as DRF declares it
        context = parser_context or {}
        declared = int(context["request"].META.get("CONTENT_LENGTH") or 0)
        body = b"" if declared > self.max_bytes else stream.read(self.max_bytes + 1)
        if max(declared, len(body)) > self.max_bytes:
            raise PayloadTooLarge(f"The body may have {self.max_bytes} bytes at most")
        self.received(body, context)
        try:
            return JSONParser().parse(io.BytesIO(body), media_type, context)
        except RecursionError:
            raise InvalidRequest("The body is nested too deeply.") from None

    def received(self, body: bytes, context: Mapping[str, Any]) -> None:  # Any: DRF's context
        """For a view that needs the bytes as they came."""


class Body(serializers.Serializer[Any]):  # Any: bodies are not bound to a model
    """`KeyBody.parse(request.data)` gives the checked values, or raises ValidationFailed's DRF counterpart."""

    @classmethod
    def parse(cls, data: Any, *, partial: bool = False) -> dict[str, Any]:  # Any: JSON in, checked values out
        """The checked values. With `partial` only those that were sent. Raises InvalidRequest, or ValidationError by fields."""
        if not isinstance(data, dict):
            raise InvalidRequest("The body must be a JSON object.")
        body = cls(data=data, partial=partial)
        try:
            body.is_valid(raise_exception=True)
        except RecursionError:
            raise InvalidRequest("The body is nested too deeply.") from None
        return dict(body.validated_data)

    def to_internal_value(self, data: Any) -> Any:  # Any: JSON in, checked values out
        if isinstance(data, dict):
            unknown = sorted(set(data) - {name for name, field in self.fields.items() if not field.read_only})
            if unknown:
                raise serializers.ValidationError({_printable(name): ["This field is not known."] for name in unknown})
            broken = [name for name, value in data.items() if not _is_storable(value)]
            if broken:
                raise serializers.ValidationError({name: ["Not valid Unicode text."] for name in broken})
            numbers = [name for name, value in data.items() if not _is_text(self.fields[name], value)]
            if numbers:
                raise serializers.ValidationError({name: ["Not a valid string."] for name in numbers})
        return super().to_internal_value(data)


def _is_storable(value: Any) -> bool:  # Any: JSON
    """False for a text with half of a surrogate pair, which JSON can carry and no database takes; also inside of lists."""
    if isinstance(value, list):
        return all(map(_is_storable, value))
    return not isinstance(value, str) or _printable(value) == value


def _is_text(field: serializers.Field[Any, Any, Any, Any], value: Any) -> bool:  # Any: of what the field is, JSON
    """False for a number where `field` takes a text: DRF would make "5" of it. Everything else is left to the field."""
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        return all(_is_text(field.child, each) for each in value)
    return not isinstance(field, serializers.CharField) or not isinstance(value, int | float)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@extend_schema_field(OpenApiTypes.STR)
class ShownId(serializers.Field):  # type: ignore[type-arg]  # its four types say nothing here
    """An id as it is shown: `key_…`. Read only."""

    def __init__(self, prefix: str, **options: Any) -> None:  # Any: DRF's options
        self.prefix = prefix
        super().__init__(read_only=True, **options)

    def to_representation(self, value: Any) -> str:  # Any: a UUID
        return shown(self.prefix, value)
