"""`manage.py publish FILE.onnx --name NAME`: put a model into the public catalogue, through the same intake as any upload."""

import hashlib
import json
import shutil
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from inference import artifacts, price_list
from inference.actions import create_model, update_model, upload_version
from inference.intake.run import run
from inference.models import MLModel, ModelVersion, State, Visibility
from inference.registry import parse_number
from saas.lib.errors import AppError
from tenants.access import Actor
from tenants.actions import catalog_organization
from tenants.models import Organization
from tenants.scope import tenant_scope

OPERATOR = Actor("operator")
LOOK_EVERY = 0.2  # seconds between looks at a version that a worker examines


class Command(BaseCommand):
    help = "Publish an ONNX model in the catalogue that every organization may call. Repeating it changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--name", required=True, help="Name of the model in the catalogue; made if it is not there.")
        parser.add_argument("--manifest", type=Path, help="JSON file: task, labels, preprocessing, …")
        parser.add_argument("--version", dest="number", help="Like 1.2.3; default: the manifest's, else the next patch number.")
        parser.add_argument("--description", default="", help="Of the model, if it is made.")
        parser.add_argument("--timeout", type=float, default=300.0, help="Seconds to wait for the verdict.")

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> Any:  # Any: Django's CommandParser
        """Django's own --version gives way to the model's."""
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **options)

    def handle(self, *, file: Path, name: str, manifest: Path | str | None, number: str | None, **options: Any) -> None:
        try:
            given = json.loads(Path(manifest).read_bytes()) if manifest else {}
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from None
        try:
            model = catalogue_model(catalog_organization(), name, options["description"])
            version = existing(model, digest, number or (given.get("version") if isinstance(given, dict) else None))
            is_new = version is None
            version = version or publish(model, file, digest, given, number)
        except AppError as error:
            raise CommandError(error.detail) from None
        version = judged(version, options["timeout"])
        self.stdout.write(json.dumps(version.verdict, indent=2, ensure_ascii=False))
        if version.state != State.READY:
            raise CommandError(f"{name} {version.number} is {version.state}")
        make_public(model)
        with tenant_scope(model.organization_id):
            if not price_list.of_models([model.id]):
                self.stdout.write(self.style.WARNING(f"{name} has no price: nobody can call it before it has one (the admin)"))
        self.stdout.write(self.style.SUCCESS(f"{name} {version.number} is {'ready' if is_new else 'there already'}: {digest}"))


def catalogue_model(catalog: Organization, name: str, description: str) -> MLModel:
    """The catalogue's model of this name; made if it is not there, private until a version of it is ready."""
    with tenant_scope(catalog.id):
        model: MLModel | None = MLModel.objects.of(catalog).live().filter(name=name).first()
        return model or create_model(organization=catalog, actor=OPERATOR, name=name, description=description)


def make_public(model: MLModel) -> None:
    with tenant_scope(model.organization_id):
        if not model.is_public:
            update_model(model=model, actor=OPERATOR, visibility=Visibility.PUBLIC)


def existing(model: MLModel, digest: str, number: str | None) -> ModelVersion | None:
    """The version with this artifact and, if one is asked for, this number, unless it was rejected."""
    with tenant_scope(model.organization_id):
        versions = model.versions.live().filter(digest=digest).exclude(state=State.REJECTED)
        wanted = parse_number(number) if number else None
        if wanted:
            versions = versions.filter(major=wanted[0], minor=wanted[1], patch=wanted[2])
        found: ModelVersion | None = versions.in_order().first()
    return found


def publish(model: MLModel, file: Path, digest: str, manifest: Any, number: str | None) -> ModelVersion:  # Any: JSON
    """A new version from a copy of the file."""
    with tempfile.NamedTemporaryFile(dir=artifacts.quarantine(), delete=False) as copy, file.open("rb") as opened:
        shutil.copyfileobj(opened, copy)
        size = copy.tell()
    try:
        return upload_version(
            model=model, actor=OPERATOR, path=Path(copy.name), digest=digest, size=size, manifest=manifest, number=number
        )
    finally:
        Path(copy.name).unlink(missing_ok=True)


def judged(version: ModelVersion, timeout: float) -> ModelVersion:
    """The version with its verdict: examined here, unless a worker has begun. Raises CommandError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while version.state == State.VALIDATING:
        if time.monotonic() > deadline:
            raise CommandError(f"{version.number} is still being examined")
        if not run(version.organization_id, version.id):
            time.sleep(LOOK_EVERY)
        with tenant_scope(version.organization_id):
            version = ModelVersion.objects.of(version.organization_id).get(id=version.id)
    return version
