"""Not a test: Alice's organization with one of everything, Charlie the stranger, and names that never existed."""

import hashlib
import re
import secrets
from datetime import timedelta

from django.db import transaction
from django.urls import URLPattern, get_resolver
from django.utils import timezone

from saas.lib.ids import shown, uuid7


def walk(patterns, prefix=""):
    """(path with {names}, callback) of every route below."""
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)
            yield (path if path.startswith("^") else f"/{path}"), pattern.callback
        else:
            yield from walk(pattern.url_patterns, path)


def methods_of(callback):
    view = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    if view is None:
        return ["ANY"]
    return [name.upper() for name in view.http_method_names if hasattr(view, name) and name not in ("options", "head")]


def all_routes():
    """`METHOD /path/{name}` of every route of Django's, those of the admin under one name."""
    for path, callback in walk(get_resolver().url_patterns):
        for method in methods_of(callback):
            yield "ANY /admin/…" if path.startswith("/admin/") else f"{method} {path}"


class World:
    def __init__(self, make_user, make_organization, join, make_key):
        from tenants.models import Invitation
        from tenants.permissions import SCOPES
        from tenants.scope import tenant_scope

        self.scopes, self.make_key = SCOPES, make_key
        self.alice, self.charlie, self.viewer, self.bob = (make_user(n) for n in ("alice", "charlie", "viewer", "bob"))
        self.organization = make_organization(owner=self.alice)
        self.stranger = make_organization(owner=self.charlie)
        join(self.viewer, self.organization, "viewer")
        join(self.bob, self.organization)
        self.key, self.key_text = make_key(self.organization)
        self.stranger_key = make_key(self.stranger)[1]
        self.token = secrets.token_urlsafe(32)
        with tenant_scope(self.organization.id):
            self.invitation = Invitation.objects.create(
                organization=self.organization,
                email="dave@example.org",
                role="developer",
                token_hash=hashlib.sha256(self.token.encode()).digest(),
                expires_at=timezone.now() + timedelta(days=7),
            )
        self._make_model()
        self._make_prediction()
        self._make_budgets()
        self._make_invoice()

    def _make_invoice(self):
        from billing.models import Invoice
        from tenants.databases import as_operator

        with as_operator():
            self.invoice = Invoice.objects.create(
                organization_id=self.organization.id, stripe_invoice=f"in_{secrets.token_hex(8)}", stripe_customer="cus_alice",
                status="draft", currency="USD", total_minor=100, due_minor=100, paid_minor=0,
            )  # fmt: skip

    def _make_model(self):
        from inference import actions
        from inference.models import MLModel, ModelVersion
        from tenants.access import SYSTEM
        from tenants.scope import tenant_scope

        self.name = f"private-{secrets.token_hex(6)}"
        with tenant_scope(self.organization.id):
            self.model = MLModel.objects.create(organization=self.organization, name=self.name, task="tabular")
            self.version = ModelVersion.objects.create(
                organization=self.organization, model=self.model, major=1, minor=0, patch=0, digest="0" * 64, size=1,
                state="ready", manifest={"task": "tabular"}, inputs=[["x", "FP32", [-1, 2]]], outputs=[["y", "FP32", [-1, 2]]],
                has_batch=True, is_batchable=True,
            )  # fmt: skip
            for alias in ("production", "canary"):
                actions.promote(model=self.model, actor=SYSTEM, alias=alias, version="1.0.0")

    def _make_prediction(self):
        from inference.predictions.models import Prediction
        from tenants.crypto import seal_for
        from tenants.scope import tenant_scope

        identity = uuid7()
        with tenant_scope(self.organization.id):
            sealed = seal_for(self.organization.id, b'{"inputs": []}', context=("prediction", "input", identity.hex))
            self.prediction = Prediction.objects.create(
                id=identity, organization=self.organization, key_public_id=self.key.public_id, key_id=self.key.id,
                model_name=f"{self.organization.slug}/{self.name}", model_id=self.model.id, version_id=self.version.id,
                version_number="1.0.0", hardware="cpu", endpoint="predict", input=sealed, timeout=5,
                expires_at=timezone.now() + timedelta(hours=1), request_id=f"of-alice-{self.name}",
            )  # fmt: skip

    def _make_budgets(self):
        from billing.caps import budgets
        from tenants.access import SYSTEM
        from tenants.scope import tenant_scope

        with tenant_scope(self.organization.id):
            for key in (None, self.key):
                budgets.put(self.organization, key, 10**12, actor=SYSTEM)

    def names(self):
        """What Alice's things are called, in paths, bodies and filters."""
        return {
            "member": shown("usr", self.bob.id),
            "invitation": self.invitation.shown_id,
            "key": self.key.shown_id,
            "model": self.name,
            "organization": self.organization.slug,
            "version": "1.0.0",
            "alias": "canary",
            "prediction": self.prediction.shown_id,
            "invoice": shown("inv", self.invoice.id),
            "public_id": self.key.public_id,
            "request_id": self.prediction.request_id,
            "token": self.token,
        }

    def nobodys(self):
        """Names of the same form that never existed. Versions and aliases are named as Alice's: their model is what is not."""
        return {
            "member": shown("usr", uuid7()),
            "invitation": shown("invt", uuid7()),
            "key": shown("key", uuid7()),
            "model": f"private-{secrets.token_hex(6)}",
            "organization": f"org-{secrets.token_hex(6)}",
            "version": "1.0.0",
            "alias": "canary",
            "prediction": shown("pred", uuid7()),
            "invoice": shown("inv", uuid7()),
            "public_id": secrets.token_hex(6),
            "request_id": f"of-alice-private-{secrets.token_hex(6)}",
            "token": secrets.token_urlsafe(32),
        }

    def key_without(self, scope):
        """A key of Alice's organization with every scope but this one."""
        return self.make_key(self.organization, scopes=[other for other in self.scopes if other != scope])[1]

    def state(self):
        """Everything of Alice's that a stranger must not change."""
        from tenants.databases import as_operator

        things = (self.model, self.version, self.key, self.invitation, self.prediction, self.invoice, self.organization)
        with as_operator(), transaction.atomic(using="ops"):
            rows = [type(thing).objects.filter(pk=thing.pk).values() for thing in things]
            members = type(self.bob.memberships.model()).objects.filter(organization=self.organization).order_by("id").values()
            aliases = self.model.aliases.model.objects.filter(model=self.model).order_by("id").values()
            return [list(each) for each in (*rows, members, aliases)]
