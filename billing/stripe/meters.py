"""What Stripe calls our meters, and which meter each of its prices goes by. Neither ever changes, so it is asked once."""

from django.conf import settings

from billing.stripe import catalogue
from saas.lib.errors import PaymentsUnavailable

_meters: dict[tuple[str, str], str] = {}  # by the API's address and event name
_prices: dict[tuple[str, str], str] = {}  # meter by the API's address and price, "" for prices without one


def meter_id(event_name: str) -> str:
    """Stripe's id of a meter. Raises PaymentsUnavailable if there is none (manage.py stripe_sync makes it)."""
    base = settings.CONFIG.stripe_api_base
    if (base, event_name) not in _meters:
        _meters.update({(base, meter.event_name): meter.id for meter in catalogue.meters() if meter.is_active})
    if (base, event_name) not in _meters:
        raise PaymentsUnavailable(f"Stripe has no meter {event_name}: run manage.py stripe_sync")
    return _meters[base, event_name]


def meter_of_price(price: str) -> str:
    """Stripe's id of the meter that a price goes by; "" if it goes by none, or there is no such price."""
    base = settings.CONFIG.stripe_api_base
    if price and (base, price) not in _prices:
        _prices.update({(base, known.id): known.meter for known in catalogue.prices()})
    return _prices.get((base, price), "")
