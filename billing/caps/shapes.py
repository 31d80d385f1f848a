"""The shapes of budgets, credit, alerts and spend, for their views and the API reference. Amounts are decimal text."""

from typing import Any

from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from saas.lib import money
from tenants.bodies import Body


class AmountField(serializers.CharField):
    """ "12.50": decimal text, at least 0, with at most 9 decimals. Gives nano."""

    def to_internal_value(self, data: Any) -> Any:  # Any: DRF's signature
        try:
            return money.nano_of(super().to_internal_value(data))
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None


class BudgetBody(Body):
    amount = AmountField(help_text="A month, in the organization's currency.")


class BudgetOut(serializers.Serializer):  # type: ignore[type-arg]  # this and those below are bound to no model
    scope = serializers.ChoiceField(["organization", "key"])
    key = serializers.CharField(allow_null=True, help_text="Id of the key; null: the organization's own budget.")
    amount = serializers.CharField()
    currency = serializers.CharField()
    spent = serializers.CharField(allow_null=True, help_text="This month, calls under way at their most; null: not known now.")
    left = serializers.CharField(allow_null=True)
    period = serializers.CharField()
    resets_at = serializers.DateTimeField()


class BudgetsOut(serializers.Serializer):  # type: ignore[type-arg]
    results = BudgetOut(many=True)


class AlertOut(serializers.Serializer):  # type: ignore[type-arg]
    at = serializers.DateTimeField()
    about = serializers.ChoiceField(["budget", "included_calls", "included_amount", "credit"])
    scope = serializers.ChoiceField(["organization", "key"])
    key = serializers.CharField(allow_null=True)
    period = serializers.CharField(help_text="The month; of credit that in which some was added last.")
    percent = serializers.IntegerField()
    amount = serializers.CharField(
        help_text="The whole as it was then: budget, included amount or number of calls, credit when some was added last."
    )
    spent = serializers.CharField(help_text="How much of it was used.")
    is_mailed = serializers.BooleanField()


class GrantOut(serializers.Serializer):  # type: ignore[type-arg]
    id = serializers.CharField()
    amount = serializers.CharField()
    remaining = serializers.CharField(help_text="Seconds behind the calls.")
    expired = serializers.CharField(help_text="Never used.")
    category = serializers.ChoiceField(["promotional", "paid"])
    priority = serializers.IntegerField()
    expires_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()


class CreditOut(serializers.Serializer):  # type: ignore[type-arg]
    balance = serializers.CharField()
    currency = serializers.CharField()
    is_prepaid = serializers.BooleanField(
        help_text="Calls that cost something are refused when it is used up; else never for want of it."
    )
    grants = GrantOut(many=True)


class IncludedOut(serializers.Serializer):  # type: ignore[type-arg]
    calls = serializers.IntegerField(allow_null=True, help_text="Then calls are refused; null: no such limit.")
    calls_left = serializers.IntegerField(allow_null=True)
    amount = serializers.CharField(
        help_text="Used at list prices without extra charge; where the plan was changed this month, in the part since then."
    )
    amount_left = serializers.CharField()


PartOut = inline_serializer(
    "SpendPartOut",
    {
        "plan": serializers.CharField(),
        "from": serializers.DateTimeField(),
        "to": serializers.DateTimeField(help_text="Of the plan of now: the month's end."),
        "amount": serializers.CharField(help_text="Used in it, at list prices."),
        "included": serializers.CharField(help_text="What the plan includes, in proportion to the part's length."),
        "overage": serializers.CharField(),
        "fee": serializers.CharField(help_text="In proportion to the part's length."),
    },
    many=True,
)


class ForecastOut(serializers.Serializer):  # type: ignore[type-arg]
    calls = serializers.IntegerField()
    amount = serializers.CharField()
    total = serializers.CharField()


class SpendOut(serializers.Serializer):  # type: ignore[type-arg]
    period = serializers.CharField()
    currency = serializers.CharField()
    plan = serializers.CharField()
    calls = serializers.IntegerField()
    amount = serializers.CharField(help_text="At list prices.")
    included = IncludedOut()
    overage = serializers.CharField(help_text="What usage costs beyond what the plan includes, unrounded.")
    fee = serializers.CharField()
    credit_used = serializers.CharField()
    total = serializers.CharField(help_text="The bill if the month ended now, before credit and tax.")
    parts = PartOut
    forecast = ForecastOut(help_text="At the end of the month, if it goes on as it did until now.")
    as_of = serializers.DateTimeField(allow_null=True, help_text="Every call that had ended by then is counted.")
