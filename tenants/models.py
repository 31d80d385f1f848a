"""Organizations and what belongs to them. Every table with `tenant_id` is under row-level security (saas/lib/rls.py)."""

from typing import Any, ClassVar, Self
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from saas.lib.ids import shown, uuid7
from saas.lib.names import NAME_PATTERN
from tenants import standing
from tenants.limit_columns import CAPS_IN_RANGE, CapColumns, LimitColumns
from tenants.principal import Limits

CATALOG_ID = UUID("00000000-0000-7000-8000-00000000ca7a")
CATALOG_SLUG = "catalog"


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":  # Any: columns of User
        """A user with this login. Without a password nobody can sign in as them."""
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":  # Any: columns of User
        """An operator. Only the `ops` role may store one: `createsuperuser --database ops`."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """Lower case throughout: `Alice@Example.org` and `alice@example.org` are one login."""
        return (email or "").strip().lower()

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email__iexact=username)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. Belongs to no tenant: memberships say where they may act."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(max_length=254)
    name = models.CharField(max_length=150, blank=True)
    is_staff = models.BooleanField("operator", default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_unique")]

    def __str__(self) -> str:
        return self.email

    def clean(self) -> None:
        self.email = type(self).objects.normalize_email(self.email)


class Organization(CapColumns, LimitColumns):
    """A tenant. Row-level security is on its own id."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=63, unique=True, validators=[RegexValidator(NAME_PATTERN)])
    name = models.CharField(max_length=150)
    is_active = models.BooleanField(default=True, help_text="Off: its keys are refused at once and its members are locked out.")
    rate = models.FloatField(default=100.0, validators=[MinValueValidator(0.001)], help_text="Requests per second.")
    burst = models.PositiveIntegerField(
        default=200, validators=[MinValueValidator(1)], help_text="Requests that may come at once."
    )
    concurrency = models.PositiveIntegerField(
        default=64, validators=[MinValueValidator(1)], help_text="Requests under way at a time."
    )
    retention_hours = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Hours that inputs and outputs of predictions are kept; empty: the platform's.",
    )
    terms = models.JSONField(
        default=dict, db_default={}, editable=False, help_text="What its contract means for calls (tenants.principal.Terms)."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(slug__regex=NAME_PATTERN), name="organization_slug_form"),
            models.CheckConstraint(
                condition=Q(rate__gt=0, burst__gte=1, concurrency__gte=1), name="organization_limits_positive"
            ),
            models.CheckConstraint(condition=Q(monthly_calls__gte=0), name="organization_monthly_calls_positive"),
            models.CheckConstraint(condition=CAPS_IN_RANGE, name="organization_caps_in_range"),
            models.CheckConstraint(condition=Q(retention_hours__gte=1), name="organization_retention_positive"),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def shown_id(self) -> str:
        return shown("org", self.id)

    @property
    def limits(self) -> Limits:
        """What holds now: the state of its account may leave it less than its columns say."""
        return standing.limits_in(self.terms.get("state", ""), Limits(self.rate, self.burst, self.concurrency))


class TenantQuerySet(models.QuerySet[Any]):  # Any: of the model that uses it
    def of(self, organization: Organization | UUID) -> Self:
        """Only this organization's rows. Row-level security says the same; each holds without the other."""
        return self.filter(organization_id=organization.id if isinstance(organization, Organization) else organization)


class TenantModel(models.Model):
    """Base of every tenant table. Its migration adds `tenant_policy`, and `tenant_reference` to other tenant tables."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, db_column="tenant_id", related_name="+", editable=False
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        abstract = True


class Role(models.TextChoices):
    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


class Membership(TenantModel):
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "user"], name="membership_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.role}"


class Invitation(TenantModel):
    """An offer to join, sent by mail. Only the SHA-256 of its token is kept."""

    email = models.EmailField(max_length=254)
    role = models.CharField(max_length=16, choices=Role.choices)
    token_hash = models.BinaryField(max_length=32, unique=True)
    invited_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "organization",
                Lower("email"),
                condition=Q(accepted_at__isnull=True, revoked_at__isnull=True),
                name="invitation_open_once",
            ),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="invitation_role"),
        ]

    def __str__(self) -> str:
        return f"{self.email} {self.role}"

    @property
    def shown_id(self) -> str:
        return shown("invt", self.id)

    @property
    def status(self) -> str:
        """`accepted`, `revoked`, `expired` or `open`."""
        if self.accepted_at:
            return "accepted"
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at <= timezone.now() else "open"


class Mode(models.TextChoices):
    LIVE = "live"
    TEST = "test"


class ApiKey(LimitColumns, TenantModel):
    """One API key. Of its secret only an HMAC under a pepper is kept (tenants/keys.py)."""

    name = models.CharField(max_length=100)
    public_id = models.CharField(max_length=12, unique=True, editable=False)
    mode = models.CharField(max_length=4, choices=Mode.choices, editable=False)
    hash = models.BinaryField(max_length=32)
    pepper_version = models.PositiveIntegerField()
    scopes = ArrayField(models.CharField(max_length=40))
    rate = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.001)],
        help_text="Requests per second; empty: its organization's.",
    )
    burst = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    concurrency = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    replaces = models.UUIDField(null=True, editable=False, help_text="The key that this one was rotated from.")
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The last one: in this class body its name hides the module.
    models = ArrayField(models.CharField(max_length=127), null=True, blank=True, help_text="Models it may call; empty: all.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(mode__in=Mode.values), name="apikey_mode"),
            models.CheckConstraint(
                condition=Q(rate__gt=0) & Q(burst__gte=1) & Q(concurrency__gte=1), name="apikey_limits_positive"
            ),
            models.CheckConstraint(condition=Q(monthly_calls__gte=0), name="apikey_monthly_calls_positive"),
        ]

    def __str__(self) -> str:
        return self.prefix

    @property
    def shown_id(self) -> str:
        return shown("key", self.id)

    @property
    def prefix(self) -> str:
        """The part of the key that may be shown: kind, mode and public id."""
        return f"maas_{self.mode}_{self.public_id}"

    @property
    def status(self) -> str:
        """`revoked`, `expired` or `active`."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= timezone.now() else "active"


class DataKey(TenantModel):
    """A data-encryption key of an organization, wrapped by the key-encryption key of `kek_version`."""

    purpose = models.CharField(max_length=20, default="payload")
    kek_version = models.PositiveIntegerField()
    wrapped = models.BinaryField()
    retired_at = models.DateTimeField(null=True, blank=True, help_text="Since then it only decrypts.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "purpose"], condition=Q(retired_at__isnull=True), name="datakey_one_current"
            ),
        ]

    def __str__(self) -> str:
        return self.id.hex


class AuditEvent(TenantModel):
    """What somebody did. The application's role can add rows, never change or remove them."""

    actor_kind = models.CharField(max_length=10, choices=[(kind, kind) for kind in ("user", "key", "operator", "system")])
    actor = models.CharField(max_length=40, blank=True, help_text="Shown id of the user or key.")
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=80, blank=True)
    details = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["organization", "-id"], name="auditevent_newest")]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"


class RecordChange(models.Model):
    """Outbox of tenants/records.py. No tenant: the application's role may only add rows; `ops` reads and removes them."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=300)
    next_try_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [models.Index(fields=["next_try_at"], name="recordchange_due")]

    def __str__(self) -> str:
        return self.name
