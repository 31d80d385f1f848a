"""What is for sale to an organization over HTTP: prices, and how a plan is shown."""

from datetime import datetime
from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import PlanVersion, Subscription
from billing.sale import plans, terms
from billing.sale.models import LIMITS
from inference import price_list
from inference.gateway import pricing
from inference.models import MLModel
from saas.lib import clock, money
from saas.lib.prices import FREE, Price
from tenants.models import CATALOG_ID, CATALOG_SLUG
from tenants.pagination import page
from tenants.principal import Terms
from tenants.views import TenantView

Out = serializers.Serializer[Any]  # Any: answers are bound to no model


class PlanOut(Out):
    """What `shown_version` makes, for the API reference. Amounts are decimal texts in the currency."""

    plan = serializers.CharField()
    name = serializers.CharField()
    version = serializers.IntegerField()
    currency = serializers.CharField()
    monthly_fee = serializers.CharField()
    included_calls = serializers.IntegerField(allow_null=True, help_text="Calls a month, then 402; null: no such stop.")
    included_amount = serializers.CharField(help_text="Used at list prices each month without extra charge.")
    overage = serializers.JSONField(help_text="Factors on list prices beyond it, graduated.")
    is_prepaid = serializers.BooleanField()
    limits = serializers.DictField(child=serializers.FloatField(), help_text="What it sets; others stay as they are.")


class CurrentPlanOut(PlanOut):
    state = serializers.CharField()
    since = serializers.DateTimeField()
    ends_at = serializers.DateTimeField(allow_null=True, help_text="When the subscription ends, if that is planned.")
    next_plan = serializers.CharField(allow_null=True, help_text="The plan from then on.")
    choices = PlanOut(many=True, help_text="What is for sale in the organization's currency.")


class PriceOut(Out):
    currency = serializers.CharField()
    price_version = serializers.IntegerField(help_text="As in receipts and the ledger.")
    call = serializers.CharField()
    row = serializers.CharField()
    second = serializers.CharField(help_text="Per second of computing.")
    starts_at = serializers.DateTimeField()


class ModelPricesOut(Out):
    """`price` is null for a model of the catalogue that has none in the currency: it cannot be called."""

    model = serializers.CharField()
    price = PriceOut(allow_null=True)
    next = PriceOut(allow_null=True, help_text="What follows it.")


class PricesView(TenantView):
    required_scope = "billing:read"

    @extend_schema(responses=ModelPricesOut(many=True), summary="What the models cost that the organization may call")
    def get(self, request: Request) -> Response:
        public = list(MLModel.objects.of(CATALOG_ID).published().values_list("pk", flat=True))
        models = MLModel.objects.live().filter(Q(organization_id=self.organization.id) | Q(pk__in=public))
        listed, own_terms = price_list.of_models(public), terms.read(self.organization)
        return page(
            request, models, lambda model: shown_prices(model, listed.get(model.id, []), own_terms, self.organization.slug)
        )


def shown(subscription: Subscription) -> dict[str, Any]:  # Any: JSON
    """The plan of an organization, its state, and what else is for sale."""
    version = subscription.plan_version
    choices = [shown_version(each) for each in plans.public(version.currency)]
    ends_at = subscription.ends_at
    return {
        **shown_version(version),
        "state": subscription.state,
        "since": subscription.since,
        "ends_at": ends_at,
        "next_plan": (subscription.next_plan or "free") if ends_at else None,
        "choices": choices,
    }


def shown_version(version: PlanVersion) -> dict[str, Any]:  # Any: JSON
    return {
        "plan": version.plan_id,
        "name": version.plan.name,
        "version": version.version,
        "currency": version.currency,
        "monthly_fee": money.text_of(money.nano_of_decimal(version.monthly_fee)),
        "included_calls": version.included_calls,
        "included_amount": money.text_of(money.nano_of_decimal(version.included_amount)),
        "overage": version.overage,
        "is_prepaid": version.is_prepaid,
        "limits": {name: value for name in LIMITS if (value := getattr(version, name)) is not None},
    }


def shown_prices(model: MLModel, listed: list[Price], own_terms: Terms, slug: str) -> dict[str, Any]:  # Any: JSON
    """The price in force and the next one, as the organization with these terms pays them; `listed` is everybody's."""
    now_ms = clock.now_ms()
    lists = [own_terms.overrides.get(model.id.hex, []), listed]
    if not model.is_public:
        lists[1:] = [own_terms.overrides.get(pricing.PRIVATE, []), [FREE]]
    price = next((found for prices in lists if (found := _at(prices, own_terms, now_ms))), None)
    later = [each for prices in lists for each in prices if each.starts_ms > now_ms and each.currency == own_terms.currency]
    full_name = f"{CATALOG_SLUG if model.is_public else slug}/{model.name}"
    return {
        "model": full_name,
        "price": price and _shown_price(price, own_terms.currency),
        "next": _shown_price(min(later, key=lambda each: each.starts_ms), own_terms.currency) if later else None,
    }


def _at(prices: list[Price], own_terms: Terms, now_ms: int) -> Price | None:
    return FREE if prices == [FREE] else pricing.in_force(prices, own_terms.currency, now_ms)


def _shown_price(price: Price, currency: str) -> dict[str, Any]:  # Any: JSON
    return {
        "currency": currency,
        "price_version": price.version,
        "call": money.text_of(price.call_nano),
        "row": money.text_of(price.row_nano),
        "second": money.text_of(price.second_nano),
        "starts_at": datetime.fromtimestamp(price.starts_ms / 1000, tz=clock.now().tzinfo),
    }
