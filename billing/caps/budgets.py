"""Budgets: what an organization, or one of its keys, may cost a month. Its owners set them, and gateways hold calls to them."""

import logging
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.db import DatabaseError, transaction

from billing.caps.models import Budget
from billing.sale import terms
from inference.books import accounts
from saas.lib.errors import NotFound
from saas.lib.money import text_of
from tenants import audit, caps, events
from tenants.access import Actor
from tenants.databases import as_operator
from tenants.models import ApiKey, Organization

log = logging.getLogger(__name__)


class Spent(NamedTuple):
    """A budget, and what this month's calls have cost of it, in nano, those under way at their most; None: not known now."""

    budget: Budget
    spent: int | None


def listed(organization: Organization, now: datetime) -> list[Spent]:
    """Its budgets, the organization's own first, with what is spent. Raises redis.RedisError."""
    return _with_spent(organization, Budget.objects.of(organization).order_by("created_at"), now)


def find(organization: Organization, key: ApiKey | None, now: datetime) -> Spent:
    """The budget of the organization, or of its key. Raises NotFound, redis.RedisError."""
    found = _with_spent(organization, Budget.objects.of(organization).filter(api_key=key), now)
    if not found:
        raise NotFound("There is no such budget.")
    return found[0]


def put(organization: Organization, key: ApiKey | None, amount_nano: int, *, actor: Actor) -> Budget:
    """Set a budget; it holds when the request is answered. Inside the organization's transaction.

    The answer is Unavailable if the state server cannot be told: the budget is stored then, and holds soon.
    """
    caps.lock(organization.id)  # its currency stays (billing.sale.plans.check_change)
    budget, _ = Budget.objects.update_or_create(organization=organization, api_key=key, defaults={"amount_nano": amount_nano})
    audit.note(organization.id, actor, "budget.set", _target(organization, key), amount=text_of(amount_nano))
    _changed(organization.id)
    return budget


def remove(organization: Organization, key: ApiKey | None, *, actor: Actor) -> None:
    """Remove a budget. Raises NotFound if there is none. As `put`."""
    removed, _ = Budget.objects.of(organization).filter(api_key=key).delete()
    if not removed:
        raise NotFound("There is no such budget.")
    audit.note(organization.id, actor, "budget.removed", _target(organization, key))
    _changed(organization.id)


def _with_spent(organization: Organization, budgets: Iterable[Budget], now: datetime) -> list[Spent]:
    found = sorted(budgets, key=lambda budget: budget.api_key_id is not None)
    scopes = [budget.api_key_id.hex if budget.api_key_id else accounts.ORGANIZATION for budget in found]
    spent = accounts.charged(organization.id.hex, f"{now:%Y-%m}", scopes)
    return [Spent(budget, spent[place] if spent is not None else None) for place, budget in enumerate(found)]


def _target(organization: Organization, key: ApiKey | None) -> str:
    return key.shown_id if key else organization.shown_id


def _changed(organization_id: UUID) -> None:
    transaction.on_commit(partial(_tell_gateways, organization_id))
    events.fire(events.quota_changed, organization_id)


def _tell_gateways(organization_id: UUID) -> None:
    """Whether there is a cap: calls below one are opened before they run, not beside. The cap holds either way."""
    try:
        with as_operator(), transaction.atomic(using="ops"):
            terms.project(organization_id)
    except DatabaseError:
        log.exception("the terms wait for their next projection", extra={"tenant": organization_id.hex})
