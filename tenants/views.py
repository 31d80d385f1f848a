"""The bases of every management view."""

from datetime import timedelta
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.utils.decorators import method_decorator
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.views import APIView

from saas.lib.errors import InvalidRequest, NotFound, ValidationFailed
from tenants import standing
from tenants.access import Access, Actor, access_to
from tenants.models import ApiKey, Organization
from tenants.pagination import Pages
from tenants.scope import set_tenant

LIST_NAMES = frozenset({"limit", "cursor", "format"})


class ManagementView(APIView):
    """Authenticates, checks `required_scope`, and refuses what it does not know in the query of a GET, instead of ignoring it.

    `query_names` are those of the view beside LIST_NAMES: a filter with a slip in its name must not look like an answer.
    """

    required_scope: ClassVar[str | dict[str, str]]
    query_names: ClassVar[frozenset[str]] = frozenset()

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # Any: the URL's parts
        response = super().dispatch(request, *args, **kwargs)
        del self.response  # the view and its request hold each other until garbage is collected; an answer can be large
        return response

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # Any: the URL's parts
        super().initial(request, *args, **kwargs)
        formats = [renderer.format for renderer in self.renderer_classes]
        if request.query_params.get("format", formats[0]) not in formats:
            detail = f"One of {', '.join(formats)}; {formats[0]} if it is left out."
            raise ValidationFailed(f"format: {detail}", errors=[{"field": "format", "detail": detail}])
        if request.method in SAFE_METHODS:
            self._check_query(request)

    def _check_query(self, request: Request) -> None:
        known = self.query_names | LIST_NAMES
        for name in request.query_params:
            if name not in known:
                raise InvalidRequest(
                    f"There is no parameter {name[:100]!r} in this query; known are {', '.join(sorted(known))}"
                )


class TenantView(ManagementView):
    """Authenticates, checks `required_scope`, and then runs its transaction as the caller's organization.

    Methods find `self.access`, `self.organization` and `self.actor`. A closed organization only reads, but for the methods in
    `when_closed`: those by which it pays, or takes rights away.
    """

    when_closed: ClassVar[frozenset[str]] = frozenset()
    pagination_class = Pages  # for the API reference
    access: Access
    organization: Organization
    actor: Actor

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # Any: the URL's parts
        super().initial(request, *args, **kwargs)
        self.access = access_to(request)
        if self.access.organization_id is None:
            raise NotFound("You are in no organization.")
        set_tenant(self.access.organization_id)
        self.organization = Organization.objects.get(id=self.access.organization_id)
        self.actor = self.access.actor
        refusal = standing.change_refusal(self.organization.terms.get("state", ""))
        if refusal is not None and request.method not in (*SAFE_METHODS, *self.when_closed):
            raise refusal
        if self.access.key is not None:
            _note_use(self.access.key.id, self.organization)


@method_decorator(transaction.non_atomic_requests, name="dispatch")
class SteppedView(TenantView):
    """The same without a transaction around it: each step opens one of its own (tenants.scope)."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # Any: the URL's parts
        with transaction.atomic():
            super().initial(request, *args, **kwargs)


def _note_use(key_hex: str, organization: Organization) -> None:
    """Keep `last_used_at` right to a minute. Calls of models are noted by the ledger's drain."""
    now = timezone.now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - timedelta(minutes=1))
    ApiKey.objects.of(organization).filter(stale, id=key_hex).update(last_used_at=now)
