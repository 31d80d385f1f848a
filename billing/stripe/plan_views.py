"""The organization's plan over HTTP: shown, previewed, changed, ended."""

from collections.abc import Callable
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.sale import rating
from billing.sale.models import current_subscription
from billing.sale.views import CurrentPlanOut, Out, PlanOut, shown, shown_version
from billing.stripe import changing
from billing.stripe.changing import Preview
from billing.stripe.views import PurchaseView, refusals_for_operators
from tenants.bodies import Body
from tenants.scope import tenant_scope

SLUG = serializers.SlugField(max_length=40)


class PlanBody(Body):
    plan = serializers.SlugField(max_length=40)
    proration_at = serializers.DateTimeField(
        required=False, help_text="That of a preview: then the change costs what it said. Default: now."
    )


class CancelBody(Body):
    at = serializers.ChoiceField(
        choices=["period_end", "now"], default="period_end", help_text="now: the rest of the month's fee is given back."
    )


class PreviewLineOut(Out):
    description = serializers.CharField()
    amount = serializers.CharField()
    is_proration = serializers.BooleanField()
    starts_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)


class PreviewOut(PlanOut):
    """Amounts are decimal texts in the currency; usage is as Stripe has counted it until now."""

    needs_checkout = serializers.BooleanField(help_text="It begins with POST /billing/checkout, not with POST /billing/plan.")
    takes_effect_at = serializers.DateTimeField()
    proration_at = serializers.DateTimeField(
        allow_null=True, help_text="To be sent with the change, within 5 minutes: the plan is charged from then on."
    )
    due_now = serializers.CharField()
    next_invoice = serializers.CharField(help_text="What the next month's beginning will bring, as far as it is known now.")
    next_invoice_at = serializers.DateTimeField(allow_null=True)
    lines = PreviewLineOut(many=True, help_text="Of what is due now, else of the next invoice.")


class PlanChangeView(PurchaseView):
    """Base: answers with the plan as it is afterwards."""

    def changed(self, request: Request, act: Callable[[], None]) -> Response:
        """The plan as it is after `act`; once for an Idempotency-Key."""

        def answer(_: str) -> Response:
            act()
            return self.current()

        return self.once(request, answer)

    def current(self) -> Response:
        with tenant_scope(self.organization.id):
            return Response(shown(current_subscription(self.organization)))


class PlanView(PlanChangeView):
    required_scope = {"GET": "billing:read", "POST": "billing:write"}

    @extend_schema(responses=CurrentPlanOut, summary="The plan, and those that can be chosen")
    def get(self, request: Request) -> Response:
        return self.current()

    @extend_schema(
        request=PlanBody,
        responses=CurrentPlanOut,
        summary="Change the plan",
        description="From one that is paid for to another: at once, limits included; the fee is prorated by Stripe, on the "
        "next invoice. From one that is paid for to one that is not: with the end of the paid month (`ends_at`, `next_plan`). "
        "Between plans that are not paid for: at once. The first one that is paid for is bought by the checkout: here it is "
        "409.",
    )
    def post(self, request: Request) -> Response:
        body = PlanBody.parse(request.data)
        chosen: dict[str, Any] = {"actor": self.actor, "prorated_at": body.get("proration_at")}
        return self.changed(request, lambda: changing.choose(self.organization.id, body["plan"], **chosen))


class PlanPreviewView(PurchaseView):
    required_scope = "billing:read"
    query_names = frozenset({"plan"})

    @extend_schema(
        parameters=[OpenApiParameter("plan", OpenApiTypes.STR, required=True, description="Its name.")],
        responses=PreviewOut,
        summary="What a change of the plan would cost now, and next month",
        description="Nothing is changed. Before taxes, where the plan is still to be bought.",
    )
    def get(self, request: Request) -> Response:
        slug = SLUG.run_validation(request.query_params.get("plan", ""))
        with refusals_for_operators():
            return Response(shown_preview(changing.preview(self.organization.id, slug)))


class CancelView(PlanChangeView):
    @extend_schema(
        request=CancelBody,
        responses=CurrentPlanOut,
        summary="End the subscription",
        description="With the month that is paid (`ends_at` says when), or at once: then what was used is invoiced and the "
        "rest of the fee given back. The plan is Free from then on.",
    )
    def post(self, request: Request) -> Response:
        at_period_end = CancelBody.parse(request.data)["at"] == "period_end"
        return self.changed(request, lambda: changing.cancel(self.organization.id, at_period_end=at_period_end))

    @extend_schema(request=None, responses=CurrentPlanOut, summary="Take the end of the subscription back, before it has come")
    def delete(self, request: Request) -> Response:
        with refusals_for_operators():
            changing.keep(self.organization.id)
        return self.current()


def shown_preview(preview: Preview) -> dict[str, Any]:  # Any: JSON
    currency = preview.version.currency
    return {
        **shown_version(preview.version),
        "needs_checkout": preview.needs_checkout,
        "takes_effect_at": preview.takes_effect_at,
        "proration_at": preview.prorated_at,
        "due_now": rating.coins(preview.due_now, currency),
        "next_invoice": rating.coins(preview.next_invoice, currency),
        "next_invoice_at": preview.next_invoice_at,
        "lines": [
            {
                "description": line.description,
                "amount": rating.coins(line.amount_minor, currency),
                "is_proration": line.is_proration,
                "starts_at": line.period_start,
                "ends_at": line.period_end,
            }
            for line in (preview.first.lines if preview.first else ())
        ],
    }
