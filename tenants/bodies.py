"""Base of request bodies: unknown fields are refused, texts can be stored, every complaint names its field."""

from typing import Any

from rest_framework import serializers

from saas.lib.errors import InvalidRequest
from saas.lib.ids import shown


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
                raise serializers.ValidationError({_printable(name): ["This field is not known."] for name in unknown})
            broken = [name for name, value in data.items() if not _is_storable(value)]
            if broken:
                raise serializers.ValidationError({name: ["Not valid Unicode text."] for name in broken})
        return super().to_internal_value(data)


def _is_storable(value: Any) -> bool:  # Any: JSON
    """False for a text with half of a surrogate pair, which JSON can carry and no database takes; also inside of lists."""
    if isinstance(value, list):
        return all(map(_is_storable, value))
    return not isinstance(value, str) or _printable(value) == value


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class ShownId(serializers.Field):  # type: ignore[type-arg]  # its four types say nothing here
    """An id as it is shown: `key_…`. Read only."""

    def __init__(self, prefix: str, **options: Any) -> None:  # Any: DRF's options
        self.prefix = prefix
        super().__init__(read_only=True, **options)

    def to_representation(self, value: Any) -> str:  # Any: a UUID
        return shown(self.prefix, value)
