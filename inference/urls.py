"""Management endpoints of models, versions and aliases, under /api/v1/."""

from django.db.transaction import non_atomic_requests
from django.urls import path, register_converter
from django.urls.converters import StringConverter

from inference.api.views import AliasesView, AliasView, ModelsView, ModelView, RollbackView, VersionsView, VersionView
from inference.registry import parse_number
from saas.lib.names import is_model_name, is_name


class ModelConverter(StringConverter):
    """`name` or `organization/name`. What cannot be a name is no route: nothing is looked up for it."""

    regex = r"[^/]+(?:/[^/]+)?"

    def to_python(self, value: str) -> str:
        if not is_model_name(value):
            raise ValueError(value)
        return value


class AliasConverter(StringConverter):
    """Any text that can be asked for: who sets a wrong name is told what is wrong with it."""

    regex = r"[^/\x00]+"


class VersionConverter(StringConverter):
    """A number, or an alias."""

    def to_python(self, value: str) -> str:
        if parse_number(value) is None and not is_name(value):
            raise ValueError(value)
        return value


register_converter(ModelConverter, "model")
register_converter(AliasConverter, "alias")
register_converter(VersionConverter, "version")

urlpatterns = [
    path("models", ModelsView.as_view(), name="models"),
    path("models/<model:model>/versions", non_atomic_requests(VersionsView.as_view()), name="versions"),
    path("models/<model:model>/versions/<version:version>", VersionView.as_view(), name="version"),
    path("models/<model:model>/aliases", AliasesView.as_view(), name="aliases"),
    path("models/<model:model>/aliases/<alias:alias>", AliasView.as_view(), name="alias"),
    path("models/<model:model>/aliases/<alias:alias>/rollback", RollbackView.as_view(), name="alias-rollback"),
    path("models/<model:model>", ModelView.as_view(), name="model"),
]
