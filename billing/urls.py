"""Billing's part of /api/v1/."""

from django.urls import path

from billing.caps.views import AlertsView, BudgetsView, BudgetView, CreditView, KeyBudgetView, SpendView
from billing.invoicing.views import InvoicesView, InvoiceView
from billing.ledger.views import CallsView, LimitsView, UsageView
from billing.proof.views import BilledCallsView, BilledUsageView, BillView, ReceiptsView, SigningKeysView
from billing.sale.quote_views import QuoteView
from billing.sale.views import PricesView
from billing.stripe.plan_views import CancelView, PlanPreviewView, PlanView
from billing.stripe.views import CheckoutView, PortalView

urlpatterns = [
    path("usage", UsageView.as_view(), name="usage"),
    path("usage/calls", CallsView.as_view(), name="usage-calls"),
    path("billing/plan", PlanView.as_view(), name="billing-plan"),
    path("billing/plan/preview", PlanPreviewView.as_view(), name="billing-plan-preview"),
    path("billing/cancel", CancelView.as_view(), name="billing-cancel"),
    path("billing/checkout", CheckoutView.as_view(), name="billing-checkout"),
    path("billing/portal", PortalView.as_view(), name="billing-portal"),
    path("billing/invoices", InvoicesView.as_view(), name="billing-invoices"),
    path("billing/invoices/<str:invoice>", InvoiceView.as_view(), name="billing-invoice"),
    path("billing/prices", PricesView.as_view(), name="billing-prices"),
    path("quote", QuoteView.as_view(), name="quote"),
    path("limits", LimitsView.as_view(), name="limits"),
    path("billing/bill", BillView.as_view(), name="bill"),
    path("billing/usage", BilledUsageView.as_view(), name="billing-usage"),
    path("billing/usage/calls", BilledCallsView.as_view(), name="billing-usage-calls"),
    path("billing/receipts", ReceiptsView.as_view(), name="billing-receipts"),
    path("billing/signing-keys", SigningKeysView.as_view(), name="signing-keys"),
    path("billing/alerts", AlertsView.as_view(), name="billing-alerts"),
    path("billing/budgets", BudgetsView.as_view(), name="billing-budgets"),
    path("billing/budgets/organization", BudgetView.as_view(), name="billing-budget"),
    path("billing/budgets/<str:key>", KeyBudgetView.as_view(), name="billing-key-budget"),
    path("billing/credit", CreditView.as_view(), name="billing-credit"),
    path("billing/spend", SpendView.as_view(), name="billing-spend"),
]
