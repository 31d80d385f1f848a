"""On whose behalf a request acts: an API key, or a person in one organization."""

from dataclasses import dataclass, field
from uuid import UUID

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
