"""Who calls: what is known of an API key, as gateways keep it in memory and Valkey (lanes server) carries it."""

import msgspec

from saas.lib.prices import Price


class Limits(msgspec.Struct, array_like=True):
    """`rate` in requests per second, `burst` the bucket's size in requests, `concurrency` in requests under way."""

    rate: float
    burst: int
    concurrency: int

    def within(self, others: "Limits") -> "Limits":
        """The lower of both, each."""
        return Limits(min(self.rate, others.rate), min(self.burst, others.burst), min(self.concurrency, others.concurrency))


TEST_LIMITS = Limits(rate=5.0, burst=10, concurrency=2)
"""What a test key may do, unless it was given less, and what all test keys of an organization may do together."""


def holder_of_test_keys(organization: str) -> str:
    """What the bucket and the places that all test keys of an organization share are kept under."""
    return f"test:{organization}"


class Terms(msgspec.Struct):
    """What an organization's contract means for its calls. Made by billing.sale.terms, kept as a column of the organization."""

    state: str = "active"  # trialing, active, past_due, grace, suspended, closed
    currency: str = "USD"
    plan: str = ""
    is_capped: bool = False  # by included calls, prepaid credit, or any budget: its own or a key's
    # Prices of its own, oldest start first, by model id (32 hexadecimal digits); under "" those of all its private models.
    overrides: dict[str, list[Price]] = {}


class KeyRecord(msgspec.Struct):
    """One API key, with what a gateway needs of its organization. Made by tenants.keys, never logged."""

    public_id: str  # 12 characters
    id: str  # 32 hexadecimal digits
    organization: str  # 32 hexadecimal digits
    slug: str
    mode: str  # live, test
    hash: bytes  # HMAC-SHA-256 of the whole key, under the pepper of `pepper_version`
    pepper_version: int
    scopes: list[str]
    models: list[str] | None  # allow-list of model names or owner/name; None means all
    expires_at: float | None  # seconds since the epoch
    is_active: bool  # false: revoked, or its organization is closed
    limits: Limits
    organization_limits: Limits  # of a test key: what all test keys of its organization share
    is_capped: bool  # there is a limit of the books for the key or its organization: open before push
    data_key_id: str  # the organization's current data key, with which stored answers are encrypted
    data_key: bytes  # the same, wrapped (saas.lib.crypto.unwrap)
    terms: Terms = msgspec.field(default_factory=Terms)

    @property
    def shared_holder(self) -> str:
        """Whose places and bucket `organization_limits` bound: its organization's, or those of all its test keys together."""
        return self.organization if self.mode == "live" else holder_of_test_keys(self.organization)

    def may_call(self, full_name: str, name: str) -> bool:
        """Whether its allow-list has the model, as `owner/name` or as `name`."""
        return self.models is None or full_name in self.models or name in self.models


pack_key = msgspec.msgpack.Encoder().encode
unpack_key = msgspec.msgpack.Decoder(KeyRecord).decode
pack_terms = msgspec.json.Encoder().encode
unpack_terms = msgspec.json.Decoder(Terms).decode
