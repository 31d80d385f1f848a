"""Idempotency-Key on the POSTs of billing: the outcome is a row, written in the transaction that does the work."""

import json
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Post
from inference.gateway import headers
from saas.lib.errors import IdempotencyKeyReused, Unavailable
from saas.lib.inserts import insert_once
from tenants.bodies import FingerprintParser
from tenants.views import TenantView

KEPT = timedelta(days=7)


class PostingView(TenantView):
    """Base of views whose POST may carry an Idempotency-Key: `return self.once(request, lambda: Response(…))`."""

    parser_classes = [FingerprintParser]
    fingerprint: bytes = b""

    def once(self, request: Request, act: Callable[[], Response]) -> Response:
        """What `act` answers; for a key that was used, what it answered then. A retry waits for the first request's end.

        An AppError is not kept: its request has changed nothing, and the retry may succeed. Raises IdempotencyKeyReused.
        """
        given = request.headers.get("Idempotency-Key")
        key = headers.idempotency_key(None if given is None else given.encode("latin-1", "replace"))
        if key is None:
            return act()
        post = Post(organization=self.organization, key=key, fingerprint=self.fingerprint)
        if not insert_once(post):
            return self._replay(key)
        response = act()
        post.status, post.body = response.status_code, JSONRenderer().render(response.data).decode()
        post.save(update_fields=["status", "body"])
        return response

    def _replay(self, key: str) -> Response:
        first: Post | None = Post.objects.of(self.organization).filter(key=key).first()
        if first is None or first.status is None:  # it was forgotten just now
            raise Unavailable("The Idempotency-Key was being given up; try again", retry_after=1)
        if bytes(first.fingerprint) != self.fingerprint:
            raise IdempotencyKeyReused()
        return Response(json.loads(first.body or "null"), status=first.status, headers={"Idempotent-Replayed": "true"})


def forget() -> int:
    """Remove what is older than KEPT; how many. As the operator."""
    return Post.objects.filter(created_at__lt=timezone.now() - KEPT).delete()[0]
