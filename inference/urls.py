"""Management endpoints of models, versions and aliases, under /api/v1/."""

from django.db.transaction import non_atomic_requests
from django.urls import path, register_converter
from django.urls.converters import StringConverter

from inference.api.views import AliasesView, AliasView, ModelsView, ModelView, RollbackView, VersionsView, VersionView
from saas.lib.names import ROUTE_WORDS


class ModelConverter(StringConverter):
    """`name` or `organization/name`. Neither is a word of the route grammar, so that no path is ambiguous."""

    regex = r"[^/]+(?:/[^/]+)?"

    def to_python(self, value: str) -> str:
        if not ROUTE_WORDS.isdisjoint(value.split("/")):
            raise ValueError(value)
        return value


register_converter(ModelConverter, "model")

urlpatterns = [
    path("models", ModelsView.as_view(), name="models"),
    path("models/<model:model>/versions", non_atomic_requests(VersionsView.as_view()), name="versions"),
    path("models/<model:model>/versions/<str:version>", VersionView.as_view(), name="version"),
    path("models/<model:model>/aliases", AliasesView.as_view(), name="aliases"),
    path("models/<model:model>/aliases/<str:alias>", AliasView.as_view(), name="alias"),
    path("models/<model:model>/aliases/<str:alias>/rollback", RollbackView.as_view(), name="alias-rollback"),
    path("models/<model:model>", ModelView.as_view(), name="model"),
]
