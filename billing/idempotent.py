"""Idempotency-Key on the POSTs of billing: the outcome is a row, written in the transaction that does the work."""

import json
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Post
from billing.stripe.following import alone
from inference.gateway import headers
from saas.lib.errors import IdempotencyKeyReused, Unavailable
from saas.lib.ids import uuid7
from saas.lib.inserts import insert_once
from tenants.bodies import FingerprintParser
from tenants.scope import tenant_scope
from tenants.views import SteppedView, TenantView

KEPT = timedelta(days=7)


class PostingView(TenantView):
    """Base of views whose POST may carry an Idempotency-Key: `return self.once(request, lambda: Response(…))`."""

    parser_classes = [FingerprintParser]
    fingerprint: bytes = b""

    def once(self, request: Request, act: Callable[[], Response]) -> Response:
        """What `act` answers; for a key that was used, what it answered then. A retry waits for the first request's end.

        An AppError is not kept: its request has changed nothing, and the retry may succeed. Raises IdempotencyKeyReused.
        """
        key = given_key(request)
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
        return replayed(first)


class SteppedPostingView(SteppedView):
    """The same for what is done at Stripe, outside of any transaction: `act` gets a key that makes a repetition harmless.

    Killed in between, the retry does it again with the same key.
    """

    parser_classes = [FingerprintParser]
    fingerprint: bytes = b""

    def once(self, request: Request, act: Callable[[str], Response]) -> Response:
        """As PostingView: of two at the same time the second waits for the first. Raises IdempotencyKeyReused."""
        key = given_key(request)
        if key is None:
            return act(uuid7().hex)
        with tenant_scope(self.organization.id):
            insert_once(Post(organization=self.organization, key=key, fingerprint=self.fingerprint))
            post: Post = Post.objects.of(self.organization).get(key=key)
        if bytes(post.fingerprint) != self.fingerprint:
            raise IdempotencyKeyReused()
        with alone(post.id.hex):
            return self._first(post, act)

    def _first(self, post: Post, act: Callable[[str], Response]) -> Response:
        with tenant_scope(self.organization.id):
            post = Post.objects.of(self.organization).get(id=post.id)
        if post.status is not None:
            return replayed(post)
        response = act(post.id.hex)
        with tenant_scope(self.organization.id):
            body = JSONRenderer().render(response.data).decode()
            Post.objects.of(self.organization).filter(id=post.id).update(status=response.status_code, body=body)
        return response


def given_key(request: Request) -> str | None:
    """The request's Idempotency-Key. Raises InvalidRequest."""
    given = request.headers.get("Idempotency-Key")
    return headers.idempotency_key(None if given is None else given.encode("latin-1", "replace"))


def replayed(post: Post) -> Response:
    return Response(json.loads(post.body or "null"), status=post.status, headers={"Idempotent-Replayed": "true"})


def forget() -> int:
    """Remove what is older than KEPT; how many. As the operator."""
    return Post.objects.filter(created_at__lt=timezone.now() - KEPT).delete()[0]
