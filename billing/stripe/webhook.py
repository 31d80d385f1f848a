"""Where Stripe delivers its events: POST /stripe/webhook."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from billing import stripe_gateway
from billing.stripe import events
from saas.lib.errors import PayloadTooLarge

MAX_BYTES = 1 << 20


@method_decorator([csrf_exempt, transaction.non_atomic_requests], name="dispatch")
class StripeWebhookView(View):
    """Checks the signature over the raw bytes, stores the event, and says so: all but one thing is done later, by a task.

    A draft is held before its event is acknowledged: Stripe makes it final an hour after that, and not before. Where that fails
    the answer is an error, and Stripe asks again.
    """

    def post(self, request: HttpRequest) -> HttpResponse:
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BYTES:
            raise PayloadTooLarge(f"An event may have {MAX_BYTES} bytes at most")
        event = stripe_gateway.read_webhook(request.body, request.headers.get("Stripe-Signature", ""))
        try:
            events.hold(event)
        finally:
            is_new = events.receive(event)
        return JsonResponse({"received": True, "is_new": is_new})
