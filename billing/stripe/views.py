"""The ways to Stripe's pages over HTTP: for buying a plan or credit, and for all that is bought already."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.caps.shapes import AmountField
from billing.idempotent import SteppedPostingView
from billing.stripe import payments
from billing.stripe_gateway import StripeRefused
from saas.lib.errors import PaymentsUnavailable
from tenants.bodies import Body

log = logging.getLogger(__name__)
Out = serializers.Serializer[Any]  # Any: answers are bound to no model


class CheckoutBody(Body):
    """Either a plan or an amount of credit."""

    plan = serializers.SlugField(max_length=40, required=False, help_text="To subscribe to it.")
    credit = AmountField(required=False, help_text="To buy so much, in the organization's currency.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:  # Any: DRF's signature
        if len(attrs) != 1:
            raise serializers.ValidationError({"plan": "Exactly one of `plan` and `credit`."})
        return attrs


class PortalBody(Body):
    """It has no fields."""


class LinkOut(Out):
    url = serializers.CharField(help_text="A page of Stripe's, for a browser. It is valid for a short time.")


@contextmanager
def refusals_for_operators() -> Iterator[None]:
    """What Stripe refuses in here is for the operator, who alone can mend it, and alone sees why."""
    try:
        yield
    except StripeRefused as error:
        log.error("Stripe refused what a customer asked for: %s %s", error.stripe_code, error.detail)
        detail = "Stripe did not accept this request; nothing was bought or changed. Ask the platform's operator."
        raise PaymentsUnavailable(detail) from error


class PurchaseView(SteppedPostingView):
    """Base: all of it is for who may write billing, and happens at Stripe."""

    required_scope: ClassVar[str | dict[str, str]] = "billing:write"
    when_closed = frozenset({"POST", "DELETE"})

    def once(self, request: Request, act: Callable[[str], Response]) -> Response:
        with refusals_for_operators():
            return super().once(request, act)

    def email(self) -> str:
        """Where Stripe sends invoices: the caller's address, or for a key the first owner's. Raises StateConflict."""
        if self.access.user is not None:
            return self.access.user.email
        return payments.address_of(self.organization.id)


class CheckoutView(PurchaseView):
    @extend_schema(
        request=CheckoutBody,
        responses=LinkOut,
        summary="A page on which a plan or credit is bought",
        description="Nothing changes before the page is paid; then plan or credit are there within seconds. With a "
        "subscription that runs the plan is changed by POST /billing/plan instead.",
    )
    def post(self, request: Request) -> Response:
        body = CheckoutBody.parse(request.data)
        return self.once(request, lambda key: Response({"url": self._url(body, key)}))

    def _url(self, body: dict[str, Any], key: str) -> str:  # Any: of the body
        common = {"email": self.email(), "success_url": _back(), "cancel_url": _back(), "key": key}
        if "plan" in body:
            return payments.checkout_plan(self.organization.id, body["plan"], **common).url
        return payments.checkout_credit(self.organization.id, body["credit"], **common).url


class PortalView(PurchaseView):
    @extend_schema(
        request=PortalBody,
        responses=LinkOut,
        summary="A page for card, plan, cancellation and open invoices",
    )
    def post(self, request: Request) -> Response:
        PortalBody.parse(request.data)
        return self.once(request, lambda _: Response({"url": self._url()}))

    def _url(self) -> str:
        return payments.portal(self.organization.id, email=self.email(), return_url=_back())


def _back() -> str:
    """Where Stripe's pages lead back to."""
    return f"{settings.CONFIG.base_url}/docs/"
