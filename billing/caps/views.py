"""/billing/budgets, /billing/credit, /billing/alerts and /billing/spend."""

from datetime import datetime
from typing import Any

import redis
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.caps import alerts, budgets, spend
from billing.caps.budgets import Spent
from billing.caps.models import AlertFired
from billing.caps.shapes import AlertOut, BudgetBody, BudgetOut, BudgetsOut, CreditOut, SpendOut
from billing.sale.models import current_subscription
from inference.gateway.refusals import next_month
from saas.lib import clock
from saas.lib.errors import Unavailable
from saas.lib.ids import shown
from saas.lib.money import text_of
from tenants.key_views import resolve
from tenants.models import ApiKey, Organization
from tenants.pagination import page
from tenants.views import TenantView


class BudgetsView(TenantView):
    required_scope = "billing:read"

    @extend_schema(
        operation_id="billing_budgets_list", summary="The budgets of the organization and of its keys", responses=BudgetsOut
    )
    def get(self, request: Request) -> Response:
        now = clock.now()
        try:
            found = budgets.listed(self.organization, now)
        except redis.RedisError as error:
            raise _unknown() from error
        return Response({"results": [_budget(self.organization, each, now) for each in found]})


class BudgetView(TenantView):
    """The organization's own."""

    required_scope = {"GET": "billing:read", "PUT": "billing:write", "DELETE": "billing:write"}

    @extend_schema(summary="What the organization may cost a month", responses=BudgetOut)
    def get(self, request: Request) -> Response:
        return _show(self.organization, None)

    @extend_schema(
        summary="Limit what the organization may cost a month",
        description="It holds when this is answered: no call opens any more that can cost more than is left. One that is lower "
        "than what is spent already refuses everything that costs something.",
        request=BudgetBody,
        responses=BudgetOut,
    )
    def put(self, request: Request) -> Response:
        return self._put(request, None)

    @extend_schema(summary="Remove the organization's budget", responses={204: None})
    def delete(self, request: Request) -> Response:
        return self._delete(None)

    def _put(self, request: Request, key: ApiKey | None) -> Response:
        body = BudgetBody.parse(request.data)
        budgets.put(self.organization, key, body["amount"], actor=self.actor)
        return _show(self.organization, key)

    def _delete(self, key: ApiKey | None) -> Response:
        budgets.remove(self.organization, key, actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class KeyBudgetView(BudgetView):
    """A key's."""

    @extend_schema(summary="What a key may cost a month", responses=BudgetOut)
    def get(self, request: Request, key: str) -> Response:  # type: ignore[override]  # the key is in its path
        return _show(self.organization, resolve(self.organization, key))

    @extend_schema(summary="Limit what a key may cost a month", request=BudgetBody, responses=BudgetOut)
    def put(self, request: Request, key: str) -> Response:  # type: ignore[override]  # as above
        return self._put(request, resolve(self.organization, key))

    @extend_schema(summary="Remove a key's budget", responses={204: None})
    def delete(self, request: Request, key: str) -> Response:  # type: ignore[override]  # as above
        return self._delete(resolve(self.organization, key))


class AlertsView(TenantView):
    required_scope = {"GET": "billing:read"}

    @extend_schema(
        summary="When budgets, what the plan includes, and credit were used to 50, 80 and 100 %, newest first",
        description="Each once for a month (of credit: each time that some is added), seconds after the calls. Owners and "
        "billing members get a mail, too.",
        responses=AlertOut(many=True),
    )
    def get(self, request: Request) -> Response:
        return page(request, AlertFired.objects.of(self.organization), _alert)


class CreditView(TenantView):
    required_scope = "billing:read"

    @extend_schema(
        summary="What is left of the credit",
        description="Grants are listed in the order in which they are used up: what expires first, promotional before paid, "
        "the lower priority, the older. Those that are gone come after.",
        responses=CreditOut,
    )
    def get(self, request: Request) -> Response:
        return Response(CreditOut(spend.credit_of(self.organization)).data)


class SpendView(TenantView):
    required_scope = "billing:read"

    @extend_schema(summary="What this month has cost, and will cost", responses=SpendOut)
    def get(self, request: Request) -> Response:
        return Response(SpendOut(spend.of_month(self.organization, clock.now())).data)


def _show(organization: Organization, key: ApiKey | None) -> Response:
    now = clock.now()
    try:
        return Response(_budget(organization, budgets.find(organization, key, now), now))
    except redis.RedisError as error:
        raise _unknown() from error


def _unknown() -> Unavailable:
    return Unavailable("What is spent of the budgets cannot be told right now", retry_after=1)


def _budget(organization: Organization, found: Spent, now: datetime) -> dict[str, Any]:  # Any: JSON
    budget, spent = found
    return {
        "scope": "key" if budget.api_key_id else "organization",
        "key": shown("key", budget.api_key_id) if budget.api_key_id else None,
        "amount": text_of(budget.amount_nano),
        "currency": current_subscription(organization).plan_version.currency,
        "spent": None if spent is None else text_of(spent),
        "left": None if spent is None else text_of(max(0, budget.amount_nano - spent)),
        "period": f"{now:%Y-%m}",
        "resets_at": next_month(now),
    }


def _alert(alert: AlertFired) -> dict[str, Any]:  # Any: JSON
    whole, used = alerts.amounts(alert)
    return {
        "at": alert.created_at,
        "about": alert.about,
        "scope": "key" if alert.api_key_id else "organization",
        "key": shown("key", alert.api_key_id) if alert.api_key_id else None,
        "period": alert.period,
        "percent": alert.percent,
        "amount": whole,
        "spent": used,
        "is_mailed": alert.mailed_at is not None,
    }
