"""What a service needs before its parts start: tables, catalogue, and with `--demo` an organization to try it with.

Every step looks first whether there is something to do, so that a later start costs little. Run by the supervisor in a process
of its own: `python -m saas.local.bootstrap [--demo]`.
"""

import hashlib
import io
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.migrations.executor import MigrationExecutor

from saas.config import ROOT
from saas.local.servers import write_private

EXAMPLES = ROOT / "examples"
DEMO = "demo"
ADMIN = "admin@localhost"
PRICES = {
    "iris": {"call_price": "0.0001"},
    "digits": {"call_price": "0.0001", "row_price": "0.00002"},
    "language": {"call_price": "0.00005", "second_price": "0.02"},
}
"""What the examples cost in USD, until an operator adds other prices."""
# No benchmark on one machine meets these.
DEMO_LIMITS: dict[str, Any] = {  # Any: columns
    "rate": 1_000_000.0,
    "burst": 1_000_000,
    "concurrency": 100_000,
    "max_keys": 1_000_000,
    "max_members": 1_000_000,
    "max_invitations": 1_000_000,
    "max_models": 1_000_000,
    "max_versions_per_model": 1_000_000,
    "max_validating": 10_000,
    "max_aliases_per_model": 1_000_000,
    "max_artifact_bytes": 1 << 40,
    "max_stored_bytes": 1 << 50,
    "max_data_bytes": 1 << 50,
}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "saas.settings")
    django.setup()
    migrate()
    refuse_missing_peppers()
    publish_catalogue()
    price_catalogue()
    if "--demo" in sys.argv[1:]:
        make_demo(settings.CONFIG.data_dir / "demo.json")


def migrate() -> None:
    """Bring the tables up to date, as the role that owns them."""
    executor = MigrationExecutor(connections["owner"])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        print(f"creating tables: {len(plan)} migrations")
        call_command("migrate", database="owner", verbosity=0)


def refuse_missing_peppers() -> None:
    """Active keys that no pepper of this start can check end it: nobody could use them, and nothing would say why."""
    from tenants.databases import as_operator
    from tenants.keys import missing_peppers

    with as_operator():
        missing = missing_peppers()
    if missing:
        versions = ", ".join(map(str, missing))
        sys.exit(f"KEY_PEPPERS does not contain version {versions}, which active API keys need; restore it, or `make reset`")


def publish_catalogue() -> None:
    """Publish each example model whose artifact the catalogue does not have yet, through the same intake as any upload.

    One that is refused ends the start, unless the catalogue serves another version of it: then it is only said.
    """
    for artifact in sorted(EXAMPLES.glob("*/model.onnx")):
        name = artifact.parent.name
        ready = _ready_digests(name)
        if hashlib.sha256(artifact.read_bytes()).hexdigest() in ready:
            continue
        print(f"publishing {name}", flush=True)
        refusal = _publish(artifact, name)
        if refusal and not ready:
            sys.exit(refusal)
        if refusal:
            print(f"{refusal}\nThe catalogue goes on with the {name} that it has.", flush=True)


def price_catalogue() -> None:
    """Give the example models that have no price one: without, nobody could call them."""
    from decimal import Decimal

    from billing.models import PriceVersion
    from billing.sale.prices import add_price
    from inference.models import MLModel
    from tenants.access import SYSTEM
    from tenants.databases import as_operator
    from tenants.models import CATALOG_ID

    with as_operator():
        models = MLModel.objects.of(CATALOG_ID).live().filter(name__in=PRICES)
        priced = set(PriceVersion.objects.filter(organization_id=None).values_list("model_id", flat=True))
        unpriced = [model for model in models if model.id not in priced]
    for model in unpriced:
        amounts: dict[str, Any] = {column: Decimal(amount) for column, amount in PRICES[model.name].items()}  # Any: columns
        add_price(model=model, actor=SYSTEM, reason="the price of an example", **amounts)


def _publish(artifact: Path, name: str) -> str:
    """Publish it; "" or why it was refused."""
    manifest = artifact.with_name("manifest.json")
    options = ["--manifest", str(manifest)] if manifest.exists() else []
    verdict = io.StringIO()
    try:
        call_command("publish", str(artifact), "--name", name, *options, stdout=verdict)
    except CommandError as error:
        return f"{name} was not published: {error}\n{verdict.getvalue()}".rstrip()
    return ""


def _ready_digests(name: str) -> set[str]:
    """Digests of the catalogue's ready versions of this model."""
    from inference.models import ModelVersion
    from tenants.databases import as_operator
    from tenants.models import CATALOG_ID

    with as_operator():
        versions = ModelVersion.objects.filter(organization_id=CATALOG_ID, model__name=name, state="ready")
        return set(versions.values_list("digest", flat=True))


def make_demo(file: Path) -> None:
    """An operator, the demo organization, and a key of it, written to `file` (mode 0600). What exists and fits is kept."""
    before = json.loads(file.read_text()) if file.exists() else {}
    password = _admin_password(before.get("admin_password", ""))
    demo = {
        "base_url": settings.CONFIG.base_url,
        "organization": DEMO,
        "api_key": _api_key(before.get("api_key", "")),
        "admin_username": ADMIN,
        "admin_password": password,
    }
    if demo != before:
        write_private(file, json.dumps(demo, indent=2) + "\n")


def _admin_password(known: str) -> str:
    """The password of the operator, who is made if not there; a forgotten one is replaced."""
    from tenants.databases import as_operator
    from tenants.models import User

    with as_operator():
        user = User.objects.filter(email=ADMIN).first()
        if user is not None and known:
            return known
        password = known or secrets.token_urlsafe(18)
        if user is None:
            User.objects.create_superuser(ADMIN, password)
        else:
            user.set_password(password)
            user.save(update_fields=["password"])
    return password


def _api_key(known: str) -> str:
    """A key of the demo organization, which is made if not there: the known one while it is good, else a new one."""
    from billing.sale import plans
    from tenants import keys
    from tenants.access import SYSTEM
    from tenants.actions import create_organization
    from tenants.databases import as_operator
    from tenants.models import Organization, User
    from tenants.permissions import SCOPES
    from tenants.scope import tenant_scope

    with as_operator():
        organization = Organization.objects.filter(slug=DEMO).first()
        admin = User.objects.get(email=ADMIN)
    if organization is None:
        print("creating the demo organization")
        with transaction.atomic():
            organization = create_organization(name="Demo", slug=DEMO, owner=admin, **DEMO_LIMITS)
        plans.change(organization.id, "internal", actor=SYSTEM, reason="the demo organization has no caps")
    elif known and _is_good(known, organization.id.hex):
        return known
    with tenant_scope(organization.id):
        return keys.issue(organization=organization, name="demo", scopes=SCOPES, created_by=admin)[1]


def _is_good(presented: str, organization: str) -> bool:
    """Whether the key would be accepted, for the organization with this id (hexadecimal).

    One that was made under another pepper of the same version ends the start: all other keys would be refused as well.
    """
    from saas.lib.errors import ApiKeyInvalid
    from tenants.keys import load_key, matches, parse, verify
    from tenants.principal import unpack_key

    packed = load_key(parse(presented) or "")
    if packed is None:
        return False
    record = unpack_key(packed)
    if not matches(record, presented):
        sys.exit(
            f"KEY_PEPPERS does not contain the version {record.pepper_version} that the demo key was made with, but another "
            "secret of that number; restore it, or `make reset`"
        )
    try:
        verify(record, presented)
    except ApiKeyInvalid:
        return False
    return record.organization == organization


if __name__ == "__main__":
    main()
