"""Stripe: the only file that imports `stripe`. What is asked of it is in stripe_customers, _catalogue, _usage and _invoices.

Requests go to Stripe or, where STRIPE_API_BASE says so, to the stand-in (saas.local.stripe): the code is the same. Arguments
and results are plain values and billing.stripe.objects; amounts are whole minor units of the currency. None of this may run
inside a transaction.

- The SDK repeats what ended in a lost connection, 409 or 5xx (`RETRIES`), with the same Idempotency-Key; a 429, which it never
  repeats, is repeated here (`BUSY_TRIES`).
- Stripe keeps an answer for its key, **a 500 too**: only another key can get another answer. `once` first looks whether the
  request left its object behind, then asks under the next key (billing.stripe.attempts). What can be done twice without harm (a
  change, a finalization) has no key of ours, and meter events have their identifier.
- Errors: PaymentsUnavailable (nothing happened; OutcomeUnknown: it may have), PaymentRefused (a card), StripeRefused (we err).
"""

import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings

from billing.stripe import attempts
from billing.stripe.objects import Event
from saas.lib.errors import InternalError, InvalidRequest, PaymentRefused, PaymentsUnavailable

if TYPE_CHECKING:
    from stripe import StripeClient

API_VERSION = "2026-10-28.endive"
TIMEOUTS = (3.05, 20.0)  # seconds to connect, and between two bytes of the answer; the SDK's 80 would hold a web thread
PROMPT = (2.0, 4.0)  # the same where Stripe itself waits for our answer
RETRIES = 2
ATTEMPTS = 3  # of making one object in one go, each under another key
BUSY_TRIES = 4
BUSY_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds before a 429 is repeated, doubled each time, with jitter
SIGNATURE_TOLERANCE = 300  # seconds
LONGEST_NAME, LONGEST_KIND = 255, 100  # characters of an id of Stripe's, and of what something is
_MEMORY = "request"  # the metadata key under which an object remembers the request that made it

log = logging.getLogger(__name__)
Params = Mapping[str, Any]


class StripeRefused(InternalError):
    """Stripe did not accept a request of ours: its own `stripe_code`, `param` and `http_status`."""

    def __init__(self, detail: str, *, stripe_code: str = "", param: str = "", http_status: int = 0) -> None:
        super().__init__(detail)
        self.stripe_code, self.param, self.http_status = stripe_code, param, http_status


class OutcomeUnknown(PaymentsUnavailable):
    """No answer, or a 5xx: what was asked for may or may not have been done."""


class OutcomeSaved(OutcomeUnknown):
    """A 5xx, which Stripe repeats for the same Idempotency-Key."""


def is_set_up() -> bool:
    """Whether there is a key, of Stripe or of the stand-in."""
    return bool(settings.CONFIG.stripe_secret_key.get_secret_value())


def client(timeouts: tuple[float, float] = TIMEOUTS) -> "StripeClient":
    """This process's client with these timeouts. Raises PaymentsUnavailable where payments are not set up."""
    key = settings.CONFIG.stripe_secret_key.get_secret_value()
    if not key:
        raise PaymentsUnavailable("Payments are not set up on this installation: STRIPE_SECRET_KEY is empty")
    return _client(key, settings.CONFIG.stripe_api_base, timeouts)


@cache
def _client(key: str, base: str, timeouts: tuple[float, float]) -> "StripeClient":
    """Importing the SDK takes 0.4 s, so that only who needs it does, once."""
    import requests
    import stripe

    logging.getLogger("stripe").setLevel(logging.WARNING)  # at INFO it tells every request
    session = requests.Session()
    session.trust_env = not base  # the environment's proxy has no part in the stand-in on this machine
    http = stripe.RequestsClient(timeout=timeouts, session=session)
    addresses: Any = {"api": base, "files": base, "connect": base, "meter_events": base} if base else {}
    return stripe.StripeClient(
        key, stripe_version=API_VERSION, base_addresses=addresses, max_network_retries=RETRIES, http_client=http
    )


def ask(
    method: Callable[..., Any],
    *names: str,
    params: Params | None = None,
    key: str = "",
    retries: int = RETRIES,
    busy_tries: int = BUSY_TRIES,
) -> Any:
    """What one request of the SDK gives, as dictionaries. `key` is its Idempotency-Key; without one the SDK makes one up."""
    import stripe

    options: dict[str, Any] = {"max_network_retries": retries}
    if key:
        options["idempotency_key"] = key
    for attempt in range(1, busy_tries + 1):
        try:
            return method(*names, params or {}, options).to_dict()
        except stripe.RateLimitError as error:
            pause = _pause(attempt, error.headers)
            if attempt == busy_tries:
                raise PaymentsUnavailable("Stripe takes no more requests just now", retry_after=pause) from error
            time.sleep(pause)
        except stripe.CardError as error:
            raise PaymentRefused(error.user_message or "The card was refused: use another one") from error
        except stripe.APIConnectionError as error:
            raise OutcomeUnknown("Stripe did not answer; try again later", retry_after=5) from error
        except stripe.StripeError as error:
            if (error.http_status or 500) >= 500:
                raise OutcomeSaved("Stripe failed; try again later", retry_after=5) from error
            log.warning("Stripe refused a request: %s %s", error.http_status, error)
            raise StripeRefused(
                str(error.user_message or error),
                stripe_code=error.code or "",
                param=str(getattr(error, "param", None) or ""),
                http_status=error.http_status or 0,
            ) from error
    raise AssertionError("the last try returns or raises")


def _pause(attempt: int, headers: Mapping[str, str] | None) -> float:
    """Seconds until the next try: what Stripe asks for, else longer each time."""
    asked = str((headers or {}).get("Retry-After", ""))
    least = float(asked) if asked.isdigit() else 0.0
    doubled: float = BUSY_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter is no secret
    return min(max(least, doubled), LONGEST_PAUSE)


def once(
    method: Callable[..., Any], params: Params, *, key: str, find: Callable[[], Iterable[dict[str, Any]]]
) -> dict[str, Any]:
    """Make one object, also where Stripe answers 500 for its key for ever: one that `find` finds with our mark is it.

    Raises OutcomeUnknown if Stripe goes on failing: call again, it goes on where this ended.
    """
    marked = {**params, "metadata": {**params.get("metadata", {}), _MEMORY: key}}
    attempt = 1
    for _ in range(ATTEMPTS):
        try:
            return ask(method, params=marked, key=_key(key, attempt))  # type: ignore[no-any-return]  # a dictionary
        except OutcomeUnknown as error:
            for found in find():
                if (found.get("metadata") or {}).get(_MEMORY) == key:
                    return found
            if not isinstance(error, OutcomeSaved):
                raise  # under the same key again, whenever: the request may be under way still
            attempt = attempts.following(key, attempt)
    raise OutcomeUnknown("Stripe failed; try again later", retry_after=5)


def _key(key: str, attempt: int) -> str:
    return key if attempt == 1 else f"{key}:{attempt}"


def every(method: Callable[..., Any], *names: str, params: Params) -> Iterator[dict[str, Any]]:
    """Every object of a list, page by page."""
    after: dict[str, str] = {}
    while True:
        page = ask(method, *names, params={"limit": 100, **params, **after})
        yield from page["data"]
        if not page["has_more"] or not page["data"]:
            return
        after = {"starting_after": page["data"][-1]["id"]}


def tax() -> dict[str, Any]:
    """Stripe Tax, where STRIPE_TAX is on."""
    return {"automatic_tax": {"enabled": True}} if settings.CONFIG.stripe_tax else {}


def events_since(since: datetime) -> Iterable[Event]:
    """Snapshot events, newest first: Stripe keeps them for 30 days."""
    params = {"created": {"gte": int(since.timestamp())}}
    return (Event.read(json) for json in every(client().v1.events.list, params=params))


def read_webhook(body: bytes, signature: str) -> Event:
    """The event of a delivery, thin or snapshot, whose signature one of our secrets made. Raises InvalidRequest.

    The signature is checked here, as Stripe describes it (docs.stripe.com/webhooks, scheme v1) and as the SDK does, which a
    test compares: webhooks come to the gateways, and the first one is not to wait for the SDK's import. Other than the SDK
    this refuses a time in the future too: until then it could be replayed.
    """
    secrets = [secret for secret in settings.CONFIG.stripe_webhook_secrets.get_secret_value().split(",") if secret]
    if not secrets:
        raise PaymentsUnavailable("Webhooks are not set up on this installation: STRIPE_WEBHOOK_SECRETS is empty")
    pairs = [part.partition("=")[::2] for part in signature.split(",")]
    moment = next((value for name, value in pairs if name == "t"), "")
    given = [value.encode("utf-8", "replace") for name, value in pairs if name == "v1"]
    if not (moment.isascii() and moment.isdigit() and len(moment) <= 12) or not given:
        raise InvalidRequest("The webhook's signature is not valid: the header is t=…,v1=…")
    if abs(time.time() - int(moment)) > SIGNATURE_TOLERANCE:
        raise InvalidRequest(f"The webhook's signature is not valid: its time is more than {SIGNATURE_TOLERANCE} s away")
    signed = f"{int(moment)}.".encode() + body
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode() for secret in secrets]
    if not any(hmac.compare_digest(one, other) for one in made for other in given):
        raise InvalidRequest("The webhook's signature is not valid: none of our secrets has made it")
    try:
        event = Event.read(json.loads(body))
        names, kinds = (event.id, event.object_id, event.customer), (event.type, event.object_kind)
        fit = [len(name) <= LONGEST_NAME for name in names] + [len(kind) <= LONGEST_KIND for kind in kinds]
        if not event.id or not all(fit) or not all(name.isprintable() for name in names + kinds):
            raise ValueError
        return event
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:  # a time may be anything
        raise InvalidRequest("The webhook's body is not an event of Stripe") from error
