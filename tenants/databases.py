"""Which database role a query uses. Every alias is the same database; a role is what it may see and do there.

`default` (maas_app) serves requests under row-level security, `owner` runs migrations, `ops` (maas_ops, BYPASSRLS) is for
operators: the admin, management commands and sweepers, inside `as_operator()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db.models import Model

_is_operator: ContextVar[bool] = ContextVar("is_operator", default=False)


@contextmanager
def as_operator(is_operator: bool = True) -> Iterator[None]:
    """Queries inside go to the `ops` role, which sees every tenant; with False, back to the application's role."""
    token = _is_operator.set(is_operator)
    try:
        yield
    finally:
        _is_operator.reset(token)


def current_alias() -> str:
    """The alias that ordinary queries use here and now."""
    return "ops" if _is_operator.get() else "default"


class Router:
    """Django's database router. See https://docs.djangoproject.com/en/5.2/topics/db/multi-db/#using-routers"""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:  # Any: hints are Django's
        return current_alias()

    def db_for_write(self, model: type[Model], **hints: Any) -> str:  # Any: hints are Django's
        return current_alias()

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool:  # Any: hints are Django's
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:  # Any: hints are Django's
        return db == "owner"
