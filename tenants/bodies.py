"""Base of request bodies: unknown fields are refused, nothing is made of another type, every complaint names its field."""

from collections.abc import Mapping
from typing import IO, Any

from django.http import HttpRequest
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from saas.lib import jsontext
from saas.lib.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from saas.lib.fingerprints import fingerprint
from saas.lib.ids import shown


def refuse_encoding(request: Request | HttpRequest) -> None:
    """Raises UnsupportedMediaType for a body that is compressed; only calls of models may be (docs/calling.md)."""
    if request.META.get("HTTP_CONTENT_ENCODING", "").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Content-Encoding must be identity here: send the body as it is")


class JSONBodyParser(BaseParser):
    """JSON with a limit: a larger body is refused before it is read. Raises AppErrors of 400, 413, 415.

    It is not DRF's JSONParser, because DRF reads the whole body before it asks one.
    """

    media_type = "application/json"
    max_bytes: int = 1 << 20

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:  # Any: JSON, and as DRF declares it
        context = parser_context or {}
        refuse_encoding(context["request"])
        declared = int(context["request"].META.get("CONTENT_LENGTH") or 0)
        body = b"" if declared > self.max_bytes else stream.read(self.max_bytes + 1)
        if max(declared, len(body)) > self.max_bytes:
            raise PayloadTooLarge(f"The body may have {self.max_bytes} bytes at most")
        self.received(body, context)
        return self.decode(body)

    def decode(self, body: bytes) -> Any:  # Any: JSON
        return jsontext.read(body)

    def received(self, body: bytes, context: Mapping[str, Any]) -> None:  # Any: DRF's context
        """For a view that needs the bytes as they came."""


class FingerprintParser(JSONBodyParser):
    """Leaves the view the fingerprint of its request: what an Idempotency-Key stands for, as in gateways."""

    def received(self, body: bytes, context: Mapping[str, Any]) -> None:  # Any: DRF's context
        request, view = context["request"], context["view"]
        given = request.headers
        head_length = given.get("Inference-Header-Content-Length")
        view.fingerprint = fingerprint(
            b"POST",
            request.get_full_path().encode(),
            body,
            content_type=given.get("Content-Type", "").encode("latin-1", "replace"),
            head_length=None if head_length is None else head_length.encode("latin-1", "replace"),
        )


class Body(serializers.Serializer[Any]):  # Any: bodies are not bound to a model
    """`KeyBody.parse(request.data)` gives the checked values, or raises ValidationFailed's DRF counterpart."""

    @classmethod
    def parse(cls, data: Any, *, partial: bool = False) -> dict[str, Any]:  # Any: JSON in, checked values out
        """The checked values. With `partial` only those that were sent. Raises InvalidRequest, or ValidationError by fields."""
        if not isinstance(data, dict):
            raise InvalidRequest("The body must be a JSON object.")
        body = cls(data=data, partial=partial)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def to_internal_value(self, data: Any) -> Any:  # Any: JSON in, checked values out
        if isinstance(data, dict):
            unknown = sorted(set(data) - {name for name, field in self.fields.items() if not field.read_only})
            if unknown:
                raise serializers.ValidationError({name: ["This field is not known."] for name in unknown})
            wrong = {name: said for name, value in data.items() if (said := _wrong_type(self.fields[name], value))}
            if wrong:
                raise serializers.ValidationError({name: [said] for name, said in wrong.items()})
        return super().to_internal_value(data)


def _wrong_type(field: serializers.Field[Any, Any, Any, Any], value: Any) -> str:  # Any: of what the field is, JSON
    """What is wrong with a number where `field` takes a text, or the other way round: DRF would make "5" of 5 and NaN of "nan".

    Everything else is left to the field, and "" returned.
    """
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        return next((said for each in value if (said := _wrong_type(field.child, each))), "")
    if isinstance(field, serializers.CharField) and isinstance(value, int | float):
        return "Not a valid string."
    if isinstance(field, serializers.FloatField | serializers.IntegerField) and isinstance(value, str | bool):
        return "A valid number is required."
    return ""


@extend_schema_field(OpenApiTypes.STR)
class ShownId(serializers.Field):  # type: ignore[type-arg]  # its four types say nothing here
    """An id as it is shown: `key_…`. Read only."""

    def __init__(self, prefix: str, **options: Any) -> None:  # Any: DRF's options
        self.prefix = prefix
        super().__init__(read_only=True, **options)

    def to_representation(self, value: Any) -> str:  # Any: a UUID
        return shown(self.prefix, value)
