"""On whose behalf a request acts: an API key, or a person in one organization."""

from dataclasses import dataclass, field
from uuid import UUID

from rest_framework.request import Request

from saas.lib.ids import shown
from tenants.models import User
from tenants.principal import KeyRecord


@dataclass(frozen=True)
class Actor:
    """Who did something, for the audit log: `kind` is user, key, operator or system; `id` as shown."""

    kind: str
    id: str = ""

    @classmethod
    def of(cls, user: User) -> "Actor":
        return cls("user", shown("usr", user.id))

    def __str__(self) -> str:
        return f"{self.kind} {self.id}".strip()


SYSTEM = Actor("system")


@dataclass(frozen=True)
class Access:
    """What authentication found. Exactly one of `user` and `key` is there; a person may be in no organization."""

    organization_id: UUID | None
    permissions: frozenset[str]
    user: User | None = None
    key: KeyRecord | None = field(default=None, repr=False)
    role: str | None = None

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def actor(self) -> Actor:
        if self.user is not None:
            return Actor.of(self.user)
        assert self.key is not None
        return Actor("key", f"key_{self.key.id}")

    @property
    def owner(self) -> str:
        """Whose turns its requests take in a gateway: an organization's, or a person's."""
        if self.key is not None:
            return f"organization {self.key.organization}"
        assert self.user is not None
        return f"user {self.user.id}"


def access_found(request: Request) -> Access | None:
    """What authentication found out about the request; None if there was neither key nor session."""
    access: Access | None = request.auth  # type: ignore[assignment]  # the stubs know only DRF's own tokens
    return access


def access_to(request: Request) -> Access:
    """The same in a view, which is only reached with one."""
    access = access_found(request)
    assert access is not None
    return access
