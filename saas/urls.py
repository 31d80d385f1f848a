"""The URL table of everything that is not a hot route. Hot routes go from saas/server.py to inference.gateway."""

from django.contrib import admin
from django.urls import include, path

from billing.stripe.webhook import StripeWebhookView
from tenants.mail_links import ResetPasswordPage, SignUpPage, VerifyEmailPage

urlpatterns = [
    path("admin/", admin.site.urls),
    path("_allauth/", include("allauth.headless.urls")),
    path("account/verify-email/<str:key>", VerifyEmailPage.as_view()),  # as settings.HEADLESS_FRONTEND_URLS says
    path("account/password/reset/<str:key>", ResetPasswordPage.as_view()),
    path("account/signup", SignUpPage.as_view()),
    path("api/v1/", include("tenants.urls")),
    path("api/v1/", include("inference.urls")),
    path("api/v1/", include("inference.predictions.urls")),
    path("api/v1/", include("billing.urls")),
    path("stripe/webhook", StripeWebhookView.as_view(), name="stripe-webhook"),
    path("", include("saas.pages")),  # /docs/, /livez, /readyz, /metrics
]

handler400 = "saas.pages.bad_request"
handler403 = "saas.pages.forbidden"
handler404 = "saas.pages.not_found"
handler500 = "saas.pages.server_error"
