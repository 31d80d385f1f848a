"""What can be done with models, versions and aliases. Each action runs inside a transaction of the organization (tenant_scope
or a request's) and locks the model first, so that two of them on one model follow one another.
"""

from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from inference import artifacts, caps
from inference.engine.manifest import ManifestError, manifest_dict, parse_manifest
from inference.models import PRODUCTION, Alias, AliasChange, MLModel, ModelVersion, State, Task, Visibility, artifact_key
from inference.registry import model_changed, parse_number, resolve_version
from saas.lib.errors import NotFound, ScopeMissing, StateConflict, Unavailable, ValidationFailed
from saas.lib.ids import uuid7
from saas.lib.inserts import insert_once
from saas.lib.names import is_name
from tenants.access import Actor
from tenants.audit import note
from tenants.databases import current_alias
from tenants.models import CATALOG_ID, CATALOG_SLUG, Organization
from tenants.scope import tenant_scope


class Refused(ValidationFailed):
    """A field that is not acceptable."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}", errors=[{"field": field, "detail": detail}])


def create_model(
    *,
    organization: Organization,
    actor: Actor,
    name: str,
    task: str = "",
    description: str = "",
    visibility: str = Visibility.PRIVATE,
) -> MLModel:
    """A new model without versions.

    Raises ValidationFailed, ScopeMissing (public), StateConflict (the name is taken), LimitReached.
    """
    if not is_name(name):
        raise Refused("name", "1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit, and no word of the URLs")
    if name == CATALOG_SLUG:
        raise Refused("name", "this is how the operators' catalogue is called, as in catalog/iris; choose another name")
    check_visibility(organization, visibility)
    caps.lock_for_model(organization.id)
    model = MLModel(organization=organization, name=name, task=task, description=description, visibility=visibility)
    if not insert_once(model):
        raise StateConflict(f"There is a model {name} already")
    note(organization.id, actor, "model.created", model.shown_id, name=name)
    model_changed(model)
    return model


def update_model(*, model: MLModel, actor: Actor, **changes: str) -> MLModel:
    """Change `description`, `task` (while there is no version) or `visibility`. Raises as create_model does."""
    model = lock_model(model)
    if "visibility" in changes:
        check_visibility(model.organization, changes["visibility"])
    if changes.get("task", model.task) != model.task and model.versions.exists():
        raise StateConflict("The task of a model with versions cannot change")
    was_public = model.is_public
    for field, value in changes.items():
        setattr(model, field, value)
    model.save(update_fields=list(changes))
    note(model.organization_id, actor, "model.changed", model.shown_id, **changes)
    model_changed(model, was_public=was_public)
    return model


def delete_model(*, model: MLModel, actor: Actor) -> None:
    """Mark the model and all its versions as deleted: its name is free, its records stay, its artifacts go."""
    model = lock_model(model)
    model.deleted_at = timezone.now()
    model.save(update_fields=["deleted_at"])
    model.aliases.all().delete()
    model.versions.live().update(deleted_at=model.deleted_at)
    note(model.organization_id, actor, "model.deleted", model.shown_id, name=model.name)
    model_changed(model)


def read_manifest(model: MLModel, given: Any) -> dict[str, Any]:  # Any: decoded JSON of the uploader's
    """The manifest of an upload as it is kept, with the model's task where it names none. Raises ValidationFailed."""
    if not isinstance(given, dict):
        raise Refused("manifest", "a JSON object is expected")
    task = model.task or Task.TENSOR
    try:
        manifest = parse_manifest({"task": task, **given})
    except ManifestError as error:
        raise Refused("manifest", str(error).removeprefix("manifest: ")) from None
    if model.task and manifest.task != model.task:
        raise Refused("manifest.task", f"the model's task is {model.task}")
    return {"task": manifest.task, **manifest_dict(manifest)}


def upload_version(
    *,
    model: MLModel,
    actor: Actor,
    path: Path,
    digest: str,
    size: int,
    manifest: Any,  # Any: decoded JSON of the uploader's
    number: str | None = None,
) -> ModelVersion:
    """Store the file at `path`, `size` bytes with the SHA-256 `digest`, and begin its intake. Outside of any transaction.

    The file is taken away. Raises what read_manifest and add_version raise, and Unavailable; then nothing is left behind.
    """
    version_id = uuid7()
    key = artifact_key(model.organization_id, version_id)
    with tenant_scope(model.organization_id):  # all complaints before the transfer; the second time they decide
        kept = read_manifest(model, manifest)
        locked = lock_model(model)
        next_number(locked, number or kept.get("version"))
        caps.lock_for_version(locked).check(size)
    try:
        artifacts.put(key, path)
        with tenant_scope(model.organization_id):
            return add_version(
                model=model, actor=actor, version_id=version_id, manifest=kept, number=number, digest=digest, size=size
            )
    except artifacts.ArtifactError as error:
        raise Unavailable("The artifact cannot be stored right now; try again", retry_after=5) from error
    except BaseException:
        _remove_unless_kept(model.organization_id, version_id)
        raise


def _remove_unless_kept(organization_id: UUID, version_id: UUID) -> None:
    """Remove an artifact whose version was not committed; what fails after the commit leaves it."""
    with tenant_scope(organization_id):
        is_kept = ModelVersion.objects.of(organization_id).filter(id=version_id).exists()
    if not is_kept:
        artifacts.delete(artifact_key(organization_id, version_id))


def add_version(
    *,
    model: MLModel,
    actor: Actor,
    version_id: UUID,
    manifest: dict[str, Any],  # Any: JSON that read_manifest has checked
    number: str | None,
    digest: str,
    size: int,
) -> ModelVersion:
    """A version in state `validating`, whose artifact is in the store already. Intake begins after the commit.

    Raises ValidationFailed (`number` is not 1.2.3), StateConflict (it was used, by a deleted version too), LimitReached.
    """
    from inference.intake.tasks import send  # the task imports this module

    model = lock_model(model)
    major, minor, patch = next_number(model, number or manifest.get("version"))
    caps.lock_for_version(model).check(size)
    version = ModelVersion(
        id=version_id,
        organization_id=model.organization_id,
        model=model,
        major=major,
        minor=minor,
        patch=patch,
        digest=digest,
        size=size,
        manifest=manifest,
        hardware=manifest.get("hardware", "cpu"),
    )
    version.save(force_insert=True)
    if model.task != manifest["task"]:
        model.task = manifest["task"]
        model.save(update_fields=["task"])
    noted = {"model": model.name, "version": version.number, "digest": digest}
    note(model.organization_id, actor, "version.created", version.shown_id, **noted)
    model_changed(model)
    transaction.on_commit(send, using=current_alias(), robust=True)
    return version


def delete_version(*, version: ModelVersion, actor: Actor) -> None:
    """Mark a version as deleted; its artifact goes, its number is never used again.

    Raises StateConflict under an alias, NotFound if somebody deleted it meanwhile.
    """
    model = lock_model(version.model)
    names = sorted(model.aliases.filter(version=version).values_list("name", flat=True))
    if names:
        raise StateConflict(f"Version {version.number} is {', '.join(names)}: move or delete the alias first")
    if not model.versions.live().filter(id=version.id).update(deleted_at=timezone.now()):
        raise NotFound(f"The model {model.name} has no version {version.number}")
    note(model.organization_id, actor, "version.deleted", version.shown_id, model=model.name, version=version.number)
    model_changed(model)


def promote(*, model: MLModel, actor: Actor, alias: str, version: str) -> Alias:
    """Point an alias, new or not, at a ready version (number or alias).

    Raises NotFound, ValidationFailed, StateConflict, LimitReached (a new one).
    """
    if not is_name(alias):
        raise Refused("alias", "1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit, and no word of the URLs")
    model = lock_model(model)
    target = resolve_version(model, version)
    if target.state != State.READY:
        raise StateConflict(f"Version {target.number} is {target.state}, not ready")
    if not model.aliases.filter(name=alias).exists():
        caps.check_alias(model)
    return point(model, actor, alias, target)


def point(model: MLModel, actor: Actor, alias: str, target: ModelVersion) -> Alias:
    """Move the alias of a locked model to a ready version of it, and keep where it pointed before."""
    current: Alias | None = model.aliases.filter(name=alias).first()
    if current is not None and current.version_id == target.id:
        return current
    AliasChange.objects.create(organization_id=model.organization_id, model=model, alias=alias, version=target)
    current = current or Alias(organization_id=model.organization_id, model=model, name=alias)
    return _move(model, actor, current, target, "alias.set")


def roll_back(*, model: MLModel, actor: Actor, alias: str) -> Alias:
    """Point the alias at the version that it pointed at before and that is still there. Raises NotFound, StateConflict."""
    model = lock_model(model)
    current = find_alias(model, alias)
    changes = model.alias_changes.filter(alias=alias, undone_at__isnull=True).order_by("-created_at")
    others = changes.exclude(version=current.version_id).filter(version__deleted_at__isnull=True)
    earlier = others.select_related("version").first()
    if earlier is None:
        raise StateConflict(f"The alias {alias} has pointed at no other version")
    changes.filter(created_at__gt=earlier.created_at).update(undone_at=timezone.now())
    return _move(model, actor, current, earlier.version, "alias.rolled_back")


def delete_alias(*, model: MLModel, actor: Actor, alias: str) -> None:
    """Remove the alias; a later one of that name begins without history. Raises NotFound."""
    model = lock_model(model)
    current = find_alias(model, alias)
    model.alias_changes.filter(alias=alias, undone_at__isnull=True).update(undone_at=timezone.now())
    current.delete()
    note(model.organization_id, actor, "alias.deleted", model.shown_id, model=model.name, alias=alias)
    model_changed(model)


def find_alias(model: MLModel, alias: str) -> Alias:
    """Raises NotFound."""
    found: Alias | None = model.aliases.select_related("version").filter(name=alias).first()
    if found is None:
        raise NotFound(f"The model {model.name} has no alias {alias}")
    return found


def accept(version: ModelVersion, *, verdict: dict[str, Any], **measured: Any) -> None:  # Any: JSON, and columns
    """Intake's end for a good version: ready, with what was measured; the first one becomes `production`."""
    model = lock_model(version.model)
    ready = model.versions.live().filter(state=State.READY)
    is_first = not ready.exists() and not model.aliases.filter(name=PRODUCTION).exists()
    if not _judge(version, state=State.READY, verdict=verdict, ready_at=timezone.now(), **measured):
        return
    if is_first:
        point(model, Actor("system"), PRODUCTION, version)
    model_changed(model)


def reject(version: ModelVersion, *, verdict: dict[str, Any]) -> None:  # Any: JSON
    """Intake's end for a version that cannot be served."""
    model = lock_model(version.model)
    if _judge(version, state=State.REJECTED, verdict=verdict):
        model_changed(model)


def lock_model(model: MLModel) -> MLModel:
    """The organization's own model, locked until the transaction ends. Raises NotFound if it was deleted meanwhile."""
    locked: MLModel | None = MLModel.objects.of(model.organization_id).live().select_for_update().filter(id=model.id).first()
    if locked is None:
        raise NotFound(f"There is no model {model.name}")
    return locked


def check_visibility(organization: Organization, visibility: str) -> None:
    """Only the platform's own catalogue is public. Raises ScopeMissing."""
    if visibility == Visibility.PUBLIC and organization.id != CATALOG_ID:
        raise ScopeMissing("Only the operators' catalogue is public; models of an organization are private")


def _judge(version: ModelVersion, **columns: Any) -> bool:  # Any: columns of ModelVersion
    """Write the verdict once; False if somebody did before or the version is deleted."""
    waiting = ModelVersion.objects.of(version.organization_id).live().filter(id=version.id, state=State.VALIDATING)
    return bool(waiting.update(**columns))


def _move(model: MLModel, actor: Actor, alias: Alias, target: ModelVersion, action: str) -> Alias:
    alias.version, alias.updated_at = target, timezone.now()
    alias.save()
    note(model.organization_id, actor, action, model.shown_id, model=model.name, alias=alias.name, version=target.number)
    model_changed(model)
    return alias


def next_number(model: MLModel, given: str | None) -> tuple[int, int, int]:
    """The number asked for, or the next patch number. Deleted versions keep theirs."""
    if given is None:
        newest = model.versions.in_order().first()
        return (newest.major, newest.minor, newest.patch + 1) if newest else (1, 0, 0)
    number = parse_number(given)
    if number is None:
        raise Refused("version", "a number like 1.2.3 is expected")
    if model.versions.filter(major=number[0], minor=number[1], patch=number[2]).exists():
        raise StateConflict(f"Version {given} of {model.name} exists, or did: a version is immutable, take another number")
    return number
