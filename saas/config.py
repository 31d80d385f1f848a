"""All settings, typed, from the environment: one place. docs/settings.md is the table of this class (a test compares them).

A wrong value stops the start with its name and reason; with DEBUG=0 a missing secret does too.
"""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from saas.lib.crypto import KeyRing, parse_versions
from saas.lib.signing import SigningKeys

ROOT = Path(__file__).resolve().parent.parent
INSECURE = "insecure-for-development-only"
INSECURE_SECRETS = {
    "secret_key": INSECURE * 2,
    "key_peppers": f"1:{INSECURE}",
    "kek": "1:aW5zZWN1cmUtZm9yLWRldmVsb3BtZW50LW9ubHktMzI=",
    "signing_keys": "1:aW5zZWN1cmUtZm9yLWRldmVsb3BtZW50LW9ubHktMzI=",
}
MIN_SECRET_KEY, MIN_PEPPER = 32, 16  # characters
_SOCKET_DIRECTORY = re.compile(r"(host=[^&]+)?").fullmatch
_CA_FILE = re.compile(r"(ssl_ca_certs=[^&]+)?").fullmatch
_NUMBER = re.compile(r"(/[0-9]*)?").fullmatch


class Config(BaseSettings):
    """The environment, read once. Sizes in bytes, durations in seconds unless the name says otherwise.

    Upper bounds are what the rest is made for: a model is a protobuf message (below 2 GiB), one organization's bodies are at
    most 64 MiB of what a gateway holds, restarts and leases wait for the longest deadline. The others only stop typing errors.
    """

    model_config = SettingsConfigDict(extra="ignore")

    debug: bool = Field(False, description="Development mode: missing secrets are made up, errors are verbose.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the gateway listens on.")
    bind_host: str = Field("127.0.0.1", description="Address that the gateway listens on; 0.0.0.0 in a container.")
    base_url: str = Field("", description="Public address of the service; default http://127.0.0.1:PORT.")
    allowed_hosts: str = Field("127.0.0.1,localhost,[::1]", description="Host names that Django answers to, with commas.")

    database_url: str = Field("", description="PostgreSQL as maas_app (requests). Empty with `make run`: embedded.")
    database_owner_url: str = Field("", description="PostgreSQL as maas_owner (migrations).")
    database_metering_url: str = Field("", description="PostgreSQL as maas_metering (the drain).")
    database_ops_url: str = Field("", description="PostgreSQL as maas_ops (admin, sweepers).")
    database_dir: str = Field(
        "", description="PostgreSQL's data, if on this machine: 90 % of its disk, and nothing more is kept."
    )
    database_max_bytes: int = Field(
        0, ge=0, le=16 << 50, description="Size of the database from which nothing more is kept; 0: no bound."
    )
    state_url: str = Field("", description="Durable Valkey: open calls, journal, accounts, broker. Empty: embedded.")
    lanes_url: str = Field("", description="Volatile Valkey: lanes, rate limits, records. Empty: embedded.")

    secret_key: SecretStr = Field(SecretStr(""), description="Django's signing secret, at least 32 characters.")
    key_peppers: SecretStr = Field(SecretStr(""), description="Peppers of API keys, `1:secret,…`; the highest signs new keys.")
    kek: SecretStr = Field(SecretStr(""), description="Key-encryption keys, `1:base64 of 32 bytes,…`; the highest wraps.")
    signing_keys: SecretStr = Field(
        SecretStr(""), description="Ed25519 keys of receipts and seals, `1:base64 of 32 bytes,…`; the highest signs."
    )
    clock_movable: bool = Field(
        False, description="Whether the local stand-in of Stripe may put the platform's clock forward; never with real keys."
    )
    metrics_token: SecretStr = Field(SecretStr(""), description="Bearer token for /metrics; empty: loopback only.")

    data_dir: Path = Field(ROOT / ".local", description="Where artifacts, mail and uploads under way are kept.")
    artifacts_url: str = Field("", description="Artifact store: empty for a local directory, or s3://bucket/prefix.")
    s3_endpoint: str = Field("", description="Endpoint of S3-compatible storage, if not Amazon's.")
    s3_access_key: SecretStr = Field(SecretStr(""), description="Access key id of the artifact store.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret key of the artifact store.")
    s3_region: str = Field("us-east-1", description="Region of the artifact store.")
    artifact_max_bytes: int = Field(512 << 20, ge=1 << 10, le=2**31 - 1, description="Largest model that can be uploaded.")
    spool_bytes: int = Field(
        8 << 30, ge=1 << 20, le=16 << 40, description="Disk that uploads under way may take in each gateway process."
    )
    body_max_bytes: int = Field(
        16 << 20, ge=1 << 10, le=64 << 20, description="Largest body of a prediction; more is 413 before it is read."
    )

    email_url: str = Field("", description="SMTP as smtp://user:password@host:port; empty: files under DATA_DIR/mail.")
    email_from: str = Field("Model service <no-reply@localhost>", description="Sender of mails.")

    stripe_secret_key: SecretStr = Field(SecretStr(""), description="Key of Stripe's API. Empty with `make run`: the stand-in.")
    stripe_webhook_secrets: SecretStr = Field(SecretStr(""), description="Webhook secrets `whsec_…`, with commas: old and new.")
    stripe_api_base: str = Field("", description="Address of the stand-in; empty: Stripe's own.")
    stripe_tax: bool = Field(False, description="Let Stripe Tax reckon and add taxes.")

    trusted_proxies: int = Field(
        0,
        ge=0,
        le=9,
        description="Reverse proxies before the gateway that add to X-Forwarded-For; the outermost is believed.",
    )
    gateway_processes: int = Field(1, ge=1, le=256, description="Gateway processes; one is fastest on two cores.")
    threads_web: int = Field(8, ge=1, le=256, description="Threads for management calls and pages in each gateway process.")
    engine_slots: int = Field(2, ge=1, le=256, description="Batches that one worker runs at the same time.")
    engine_memory_bytes: int = Field(
        2 << 30, ge=1 << 20, le=16 << 40, description="Measured bytes of the catalogue's models that one worker keeps loaded."
    )
    engine_customers_percent: int = Field(
        50, ge=1, le=90, description="Of the machine's memory, or its container's, for all customers' own models together."
    )
    engine_organization_percent: int = Field(50, ge=1, le=100, description="Of that for one organization at most.")
    engine_max_batch_rows: int = Field(64, ge=1, le=65_536, description="Rows in one run at most.")
    engine_hardware: Literal["cpu", "gpu"] = Field("cpu", description="Which lanes a worker serves: infer.cpu or infer.gpu.")
    lane_max_ms: int = Field(2_000, ge=1, le=60_000, description="Estimated work that may wait in one lane, in milliseconds.")
    timeout_default: float = Field(30.0, ge=0.001, le=60, description="Deadline of a prediction that names none.")
    timeout_max: float = Field(60.0, ge=0.001, le=60, description="Longest deadline a prediction may ask for.")
    prediction_retention_hours: int = Field(
        24, ge=1, le=8760, description="How long results of asynchronous predictions are kept."
    )
    reconciliation_retention_days: int = Field(
        30, ge=1, le=3650, description="How long comparisons with Stripe are kept; the last of each invoice stays."
    )
    log_format: Literal["text", "json"] = Field("json", description="Form of log lines.")

    # Values may hold passwords, so that no message quotes one. Empty means the default, which is checked elsewhere.

    @field_validator("database_url", "database_owner_url", "database_metering_url", "database_ops_url")
    @classmethod
    def is_postgresql(cls, url: str) -> str:
        if not url:
            return url
        parts = _split(url, "postgresql", "postgres")
        if not parts.path.strip("/"):
            raise ValueError("it names no database: postgresql://user:password@host:port/database")
        if not _SOCKET_DIRECTORY(parts.query) or (parts.query and parts.hostname):
            raise ValueError("after its ? only host=/directory is read, in place of a host: postgresql://user@/database?host=…")
        return url

    @field_validator("allowed_hosts")
    @classmethod
    def are_hosts(cls, hosts: str) -> str:
        if not any(host.strip() for host in hosts.split(",")):
            raise ValueError("it names no host, so that every request would be refused")
        return hosts

    @field_validator("state_url", "lanes_url")
    @classmethod
    def is_valkey(cls, url: str) -> str:
        if not url:
            return url
        parts = _split(url, "unix", "redis", "rediss")
        is_socket = parts.scheme == "unix"
        if not (parts.path if is_socket else parts.hostname):
            raise ValueError("it names no server: redis://host:port/0, rediss://… or unix:///path")
        if is_socket:
            _has_no(parts, "hostname", "query")
        elif not _NUMBER(parts.path):
            raise ValueError("its database is no number: redis://host:port/0")
        elif parts.scheme == "redis" or not _CA_FILE(parts.query):  # what all three of our clients read
            _has_no(parts, "query")
        return url

    @field_validator("base_url")
    @classmethod
    def is_origin(cls, url: str) -> str:
        return _with_host(url, "http", "https", without=("username", "password", "path", "query")).removesuffix("/")

    @field_validator("s3_endpoint", "stripe_api_base")
    @classmethod
    def is_http(cls, url: str) -> str:
        return _with_host(url, "http", "https", without=("username", "password", "query"))

    @field_validator("artifacts_url")
    @classmethod
    def is_bucket(cls, url: str) -> str:
        return _with_host(url, "s3", without=("username", "password", "query"))

    @field_validator("email_url")
    @classmethod
    def is_mail_server(cls, url: str) -> str:
        return _with_host(url, "smtp", "smtps", without=("path", "query"))

    @field_validator("secret_key")
    @classmethod
    def is_long(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < MIN_SECRET_KEY:
            raise ValueError(f"it is shorter than {MIN_SECRET_KEY} characters")
        return secret

    @field_validator("key_peppers")
    @classmethod
    def are_peppers(cls, secret: SecretStr) -> SecretStr:
        versions = parse_versions(secret.get_secret_value()) if secret.get_secret_value() else {}
        short = [version for version, pepper in versions.items() if len(pepper) < MIN_PEPPER]
        if short:
            raise ValueError(f"version {short[0]} is shorter than {MIN_PEPPER} characters")
        return secret

    @field_validator("kek")
    @classmethod
    def are_keys(cls, secret: SecretStr) -> SecretStr:
        if secret.get_secret_value():
            KeyRing.parse(secret.get_secret_value())
        return secret

    @field_validator("signing_keys")
    @classmethod
    def are_signing_keys(cls, secret: SecretStr) -> SecretStr:
        if secret.get_secret_value():
            SigningKeys.parse(secret.get_secret_value())
        return secret

    @field_validator("stripe_webhook_secrets")
    @classmethod
    def are_webhook_secrets(cls, secret: SecretStr) -> SecretStr:
        if not all(part.startswith("whsec_") for part in secret.get_secret_value().split(",") if secret.get_secret_value()):
            raise ValueError("each must begin with whsec_, with commas between them")
        return secret

    @field_validator("metrics_token", "stripe_secret_key")
    @classmethod
    def fits_a_header(cls, secret: SecretStr) -> SecretStr:
        if not all("!" <= character <= "~" for character in secret.get_secret_value()):
            raise ValueError("it may only hold printable ASCII characters without spaces")
        return secret

    @field_validator("timeout_max")
    @classmethod
    def is_above_the_default(cls, longest: float, others: ValidationInfo) -> float:
        default = others.data.get("timeout_default", 0.0)
        if longest < default:
            raise ValueError(f"it is {longest:g}, below TIMEOUT_DEFAULT, which is {default:g}")
        return longest

    @model_validator(mode="after")
    def secrets_are_there(self) -> "Config":
        """With DEBUG=0 each secret must be given; with DEBUG=1 a fixed insecure one fills the gap."""
        for name in INSECURE_SECRETS:
            if not getattr(self, name).get_secret_value():
                if not self.debug:
                    raise ValueError(f"{name.upper()} is missing and DEBUG is 0: set it, or start with `make run`")
                setattr(self, name, SecretStr(INSECURE_SECRETS[name]))
        if self.clock_movable and self.stripe_secret_key.get_secret_value() and not self.stripe_api_base:
            raise ValueError(
                "CLOCK_MOVABLE is on and STRIPE_SECRET_KEY is set: the clock moves only with the stand-in of Stripe"
            )
        if not self.base_url:
            self.base_url = f"http://127.0.0.1:{self.port}"
        return self


def describe(error: ValidationError) -> str:
    """A message with each wrong variable's name and reason."""
    lines = [f"  {'.'.join(str(p) for p in e['loc']).upper() or 'settings'}: {e['msg']}" for e in error.errors()]
    return "The environment is not usable:\n" + "\n".join(lines)


def _split(url: str, *schemes: str) -> SplitResult:
    """The parts of an address: one of `schemes`, a valid port if any, no fragment. Raises ValueError without quoting it."""
    try:
        parts = urlsplit(url)
        is_whole = "#" not in url and (parts.port is None or parts.port > 0)  # what follows a # would be ignored
    except ValueError:  # its text may hold a piece of a password
        is_whole = False
    if not is_whole:
        raise ValueError("it is not an address: are the special characters of its password percent-encoded?")
    if parts.scheme not in schemes:
        raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return parts


def _with_host(url: str, *schemes: str, without: tuple[str, ...]) -> str:
    """`url`: empty, or an address with one of `schemes`, a host, `without` these parts. Raises ValueError, quoting nothing."""
    if url:
        parts = _split(url, *schemes)
        if not parts.hostname:
            raise ValueError(f"it names no host after {schemes[0]}://")
        _has_no(parts, *without)
    return url


def _has_no(parts: SplitResult, *names: str) -> None:
    """Raise ValueError if the address has one of these parts: nothing would read it."""
    for name in names:
        if (getattr(parts, name) or "").strip("/"):
            raise ValueError(
                f"it has a {name}, which has no place here; are the special characters of a password percent-encoded?"
            )
