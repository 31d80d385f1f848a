"""Looking models up: for gateways (route records), for views (rows), for the engine (artifacts).

`name` is the organization's own model, else one of the public catalogue; for calls an own one without any ready version does
not hide the catalogue's (inference.routes.preferred), for managing models it does. `organization/name` is the own one if the
slug is one's own, else a public one. Another organization's private model does not exist.
"""

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import Prefetch
from django.utils import timezone

from inference import artifacts, price_list
from inference.engine.manifest import parse_manifest
from inference.engine.source import ArtifactSource
from inference.engine.tensors import FLOATS
from inference.models import LiveQuerySet, MLModel, ModelVersion, State, VersionQuerySet
from inference.routes import ModelRoute, TensorSpec, VersionRoute, pack_route, preferred
from saas.lib.errors import NotFound
from saas.lib.prices import Price
from tenants.databases import current_alias
from tenants.models import CATALOG_ID, CATALOG_SLUG, Organization
from tenants.records import changed, project_now
from tenants.scope import tenant_scope

JUST_NOW = timedelta(seconds=5)  # within which a change has reached every gateway in any case


def own_record(organization_id: UUID, name: str) -> str:
    """Name of the route record of an organization's own model."""
    return f"route:own:{organization_id.hex}:{name}"


def public_record(slug: str, name: str) -> str:
    """Name of the route record of a public model."""
    return f"route:public:{slug}:{name}"


def make_record(name: str) -> bytes | None:
    """The packed route of a record name; None if there is no such model. The maker of tenants.records."""
    return make_records([name]).get(name)


def make_records(names: Collection[str]) -> dict[str, bytes]:
    """The same of many, by record name: the statements are as many as for one, once per organization."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for name in names:
        _, kind, owner, model = name.split(":", 3)
        wanted.setdefault((kind, owner), []).append(model)
    made: dict[str, bytes] = {}
    for (kind, owner), mine in wanted.items():
        routes = load_public_routes(owner, mine) if kind == "public" else load_own_routes(UUID(hex=owner), mine)
        made |= {f"route:{kind}:{owner}:{route.name}": pack_route(route) for route in routes}
    return made


def see_to(version: ModelVersion) -> None:
    """Have gateways know of a version that has just become ready before its reader is told so. Inside a transaction."""
    if version.ready_at is not None and timezone.now() - version.ready_at < JUST_NOW:
        name = own_record(version.organization_id, version.model.name)
        transaction.on_commit(partial(project_now, name), using=current_alias())


def model_changed(model: MLModel, *, was_public: bool = False) -> None:
    """Let gateways know, inside the transaction that changes the model, its versions or its aliases."""
    changed(own_record(model.organization_id, model.name))
    if model.is_public or was_public:
        changed(public_record(CATALOG_SLUG, model.name))


def load_own_route(organization_id: UUID, name: str) -> ModelRoute | None:
    """What gateways know of an organization's own model. Opens its own transaction."""
    return next(iter(load_own_routes(organization_id, [name])), None)


def load_own_routes(organization_id: UUID, names: Collection[str] | None = None) -> list[ModelRoute]:
    """The same of those named, or of all, by name."""
    with tenant_scope(organization_id):
        return _routes(MLModel.objects.of(organization_id).live(), ModelVersion.objects.live(), names)


def load_public_route(slug: str, name: str) -> ModelRoute | None:
    """The same of a catalogue model."""
    return next(iter(load_public_routes(slug, [name])), None)


def load_public_routes(slug: str, names: Collection[str] | None = None) -> list[ModelRoute]:
    """Catalogue models, those named or all: only one organization publishes, and only what can be called is seen of it."""
    if slug != CATALOG_SLUG:
        return []
    with tenant_scope(None):
        return _routes(MLModel.objects.of(CATALOG_ID).published(), ModelVersion.objects.live().filter(state=State.READY), names)


def load_route(organization_id: UUID, slug: str, name: str) -> ModelRoute | None:
    """The model that the organization with this slug calls `name` or `owner/name`, as gateways find it."""
    owner, _, short = name.rpartition("/")
    own = load_own_route(organization_id, short) if owner in ("", slug) else None
    if owner == slug or (own is not None and own.is_callable):
        return own
    return preferred(own, load_public_route(owner or CATALOG_SLUG, short))


def visible_routes(organization_id: UUID) -> list[ModelRoute]:
    """All models that an organization may see, its own first, then the catalogue's. Opens its own transactions."""
    public = load_public_routes(CATALOG_SLUG) if organization_id != CATALOG_ID else []
    return load_own_routes(organization_id) + public


def resolve(organization: Organization, name: str) -> MLModel:
    """The model that `organization` calls `name` (or `owner/name`). Raises NotFound. Inside a transaction of that tenant."""
    owner, _, short = name.rpartition("/")
    models = MLModel.objects.live().filter(name=short)
    model: MLModel | None = None
    if owner in ("", organization.slug):
        model = models.of(organization).first()
    if model is None and owner in ("", CATALOG_SLUG):
        model = models.of(CATALOG_ID).published().first()
    if model is None:
        raise NotFound(f"There is no model {name}")
    return model


def resolve_version(model: MLModel, reference: str) -> ModelVersion:
    """The version behind a number or an alias. Raises NotFound."""
    versions = model.versions.live().select_related("model")
    if number := parse_number(reference):
        versions = versions.filter(major=number[0], minor=number[1], patch=number[2])
    else:
        versions = versions.filter(aliases__name=reference)
    version: ModelVersion | None = versions.first()
    if version is None:
        raise NotFound(f"The model {model.name} has no version or alias {reference}")
    return version


def parse_number(text: str) -> tuple[int, int, int] | None:
    """The three numbers of `1.2.3`, each without leading zeros and below 10⁹; None if `text` is something else."""
    parts = text.split(".")
    if len(parts) != 3 or not all(map(_is_number, parts)):
        return None
    major, minor, patch = map(int, parts)
    return major, minor, patch


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and str(int(text)) == text


def version_artifact(version_id: UUID | str, owner_id: UUID | str) -> ArtifactSource | None:
    """What the engine needs to load a ready version; None if there is none. Opens its own transaction.

    Ids are UUIDs or their 32 hexadecimal digits. Raises artifacts.ArtifactError if the store gives no bytes, or other ones.
    """
    version_id, owner_id = (value if isinstance(value, UUID) else UUID(hex=value) for value in (version_id, owner_id))
    with tenant_scope(owner_id):
        versions = ModelVersion.objects.of(owner_id).live().filter(state=State.READY, model__deleted_at__isnull=True)
        version = versions.select_related("model").filter(id=version_id).first()
    if version is None:
        return None
    return ArtifactSource(
        version=version.id.hex,
        owner=version.organization_id.hex,
        artifact=artifacts.read(version.artifact_key, version.digest),
        manifest=version.manifest,
        inputs=specs(version.inputs),
        outputs=specs(version.outputs),
        digest=version.digest,
        has_batch=version.has_batch,
        is_batchable=version.is_batchable,
        is_private=not version.model.is_public,
        ms_per_row=version.ms_per_row,
        load_bytes=version.load_bytes,
        hardware=version.hardware,
        has_slow_lanes=version.has_slow_lanes,
        max_batch_rows=version.max_batch_rows,
    )


def specs(stored: list[list[object]]) -> list[TensorSpec]:
    """The signature as it is stored in a version's row."""
    return msgspec.convert(stored, list[TensorSpec])


def default_output(outputs: list[TensorSpec]) -> str:
    """The output that friendly calls read if the manifest names none: the first of floats, else the first; "" without any."""
    floats = [output.name for output in outputs if output.datatype in FLOATS]
    return (floats or [output.name for output in outputs] or [""])[0]


def _routes(models: LiveQuerySet, versions: VersionQuerySet, names: Collection[str] | None) -> list[ModelRoute]:
    """Of `models`, those of these names with these of their `versions`, by name: five statements, whatever their number."""
    if names is not None:
        models = models.filter(name__in=names)
    shown = Prefetch("versions", queryset=versions)
    # Their organization is not joined: another tenant does not see the catalogue's row.
    found = list(models.order_by("name").prefetch_related(shown, "aliases", "organization"))
    prices = price_list.of_models([model.id for model in found])
    return [_route(model, prices.get(model.id, [])) for model in found]


def _route(model: MLModel, prices: list[Price]) -> ModelRoute:
    versions = {version.id: version for version in model.versions.all()}
    return ModelRoute(
        id=model.id.hex,
        name=model.name,
        owner=model.organization_id.hex,
        owner_slug=CATALOG_SLUG if model.organization_id == CATALOG_ID else model.organization.slug,
        is_public=model.is_public,
        task=model.task or "tensor",
        versions={version.number: _version_route(version) for version in versions.values()},
        aliases={
            alias.name: versions[alias.version_id].number for alias in model.aliases.all() if alias.version_id in versions
        },
        prices=prices,
    )


def _version_route(version: ModelVersion) -> VersionRoute:
    inputs, outputs = specs(version.inputs), specs(version.outputs)
    manifest = parse_manifest(version.manifest)
    return VersionRoute(
        id=version.id.hex,
        number=version.number,
        digest=version.digest,
        state=version.state,
        inputs=inputs,
        outputs=outputs,
        has_batch=version.has_batch,
        is_batchable=version.is_batchable,
        hardware=version.hardware,
        ms_per_row=version.ms_per_row,
        features=manifest.features,
        labels=manifest.labels,
        input=manifest.input or (inputs[0].name if inputs else ""),
        output=manifest.output or default_output(outputs),
        has_slow_lanes=version.has_slow_lanes,
    )
