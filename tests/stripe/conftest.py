"""The stand-in in this process, our client towards it, and the SDK's contract checked on every request."""

import json
import secrets
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from saas.local.stripe.server import Server
from saas.local.stripe.store import Store
from saas.local.stripe.world import World
from tests.stripe import contract
from tests.waiting import until

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


_staying = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


class Standin:
    """`base_url`; `steer` for what no Stripe has; `got` are the webhooks that were delivered: (signature, body)."""

    def __init__(self, directory):
        self.secret = f"sk_test_{secrets.token_hex(8)}"
        self.webhook_secret = f"whsec_{secrets.token_hex(8)}"
        self.directory, self.got, self.answer_webhooks_with = directory, [], 200
        self._receiver = _receiver(self)
        self.webhook_url = f"http://127.0.0.1:{self._receiver.server_port}/stripe/webhook"
        self.start(0)

    def start(self, port):
        store = Store(self.directory / "state.sqlite")
        self.world = World(
            store, base_url="", secret_key=self.secret, webhook_url=self.webhook_url, webhook_secret=self.webhook_secret
        )
        self.server = Server(self.world, port)
        self.server.start()
        self.base_url = self.world.base_url

    def restart(self):
        """Another process would find what this one left."""
        port = self.server.server_port
        self.server.end()
        self.start(port)

    def end(self):
        self.server.end()
        self._receiver.shutdown()
        self._receiver.server_close()

    def ask(self, method, path, params=None, /, **headers):
        """Raw: (status, body)."""
        body = urllib.parse.urlencode(params or {}).encode() if method == "POST" else None
        query = f"?{urllib.parse.urlencode(params)}" if params and method != "POST" else ""
        headers = {"Authorization": f"Bearer {self.secret}", "Connection": "close"} | headers
        request = urllib.request.Request(self.base_url + path + query, body, headers, method=method)
        try:
            with _direct.open(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"{}")

    def steer(self, method, path, /, **params):
        status, body = self.ask(method, f"/_standin/{path}", params)
        assert status == 200, body
        return body

    def fault(self, kind, **params):
        self.steer("POST", "faults", kind=kind, **params)

    @property
    def now(self):
        return int(self.steer("GET", "clock")["now"])

    def next_month(self):
        """When the next month begins."""
        first = (datetime.fromtimestamp(self.now, UTC).replace(day=1) + timedelta(days=32)).replace(day=1)
        return first.replace(hour=0, minute=0, second=0)

    def advance(self, seconds):
        self.told()
        self.steer("POST", "clock", by=seconds)

    def advance_to(self, moment):
        self.told()
        self.steer("POST", "clock", to=moment.timestamp() if hasattr(moment, "timestamp") else moment)

    def click(self, url, **form):
        """GET a page, or POST its form: (status, text, where to)."""
        body = urllib.parse.urlencode(form).encode() if form else None
        try:
            with _staying.open(urllib.request.Request(url, body, {"Connection": "close"}), timeout=60) as answer:
                return answer.status, answer.read().decode(), ""
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers.get("Location", "")

    def requests(self):
        return self.steer("GET", "requests")["requests"]

    def pass_month(self, **more):
        """Into the next month, and on, when its drafts have been told of."""
        self.advance_to(self.next_month())
        self.advance(timedelta(**more).total_seconds())

    def told(self):
        """Wait until what is due has been delivered: a draft becomes final an hour after that."""
        until(lambda: self.answer_webhooks_with != 200 or not self._waiting(), what="the webhooks that are due")

    def _waiting(self):
        query = "SELECT count(*) FROM delivery WHERE state = 'due' AND next_at <= ?"
        with self.world.lock:
            return self.world.store.db.execute(query, (time.time(),)).fetchone()[0]

    def all_delivered(self):
        """Wait until every webhook was sent; the bodies."""
        until(lambda: set(self.steer("GET", "deliveries")) <= {"sent", "held"}, what="the webhooks")
        return [json.loads(body) for _, body in self.got]

    def types(self):
        return [event["type"] for event in self.all_delivered()]


def _receiver(standin):
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if standin.answer_webhooks_with == 200:
                standin.got.append((self.headers["Stripe-Signature"], body))
            self.send_response(standin.answer_webhooks_with)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


@pytest.fixture
def broken_promises(monkeypatch):
    """What our code asked of the SDK against its types: checked before it becomes a form, while a float is still one."""
    from stripe._api_requestor import _APIRequestor
    from stripe._http_client import HTTPClient

    from billing import stripe_gateway

    found = []
    request = _APIRequestor.request

    def checked(self, method, url, params=None, options=None, **more):
        found.extend(contract.problems(method, url, dict(params or {})))
        key = (options or {}).get("idempotency_key", "")
        if len(key) > contract.IDEMPOTENCY_KEY:
            found.append(f"the Idempotency-Key {key} is too long")
        return request(self, method, url, params, options, **more)

    monkeypatch.setattr(_APIRequestor, "request", checked)
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0.01)  # the SDK's own pause between its tries, and ours
    monkeypatch.setattr(stripe_gateway, "BUSY_PAUSE", 0.001)
    return found


@pytest.fixture
def standin(tmp_path, settings, broken_promises):
    """A stand-in of this test's own, to which our gateway speaks. Every request that it saw must keep the contract."""
    running = Standin(tmp_path)
    running.advance_to(running.next_month() + timedelta(days=9.5))  # the same day of a month whenever the tests run
    update = {
        "stripe_secret_key": SecretStr(running.secret),
        "stripe_webhook_secrets": SecretStr(running.webhook_secret),
        "stripe_api_base": running.base_url,
    }
    settings.CONFIG = settings.CONFIG.model_copy(update=update)
    yield running
    try:
        broken_promises += [
            problem
            for request in running.requests()
            for problem in contract.problems(request["method"], request["path"], request["params"], is_wire=True)
        ]
    finally:
        running.end()
    assert broken_promises == []


@pytest.fixture
def customer(standin):
    from billing.stripe import customers as stripe_customers
    from billing.stripe import portal as stripe_portal

    stripe_portal.create()
    return stripe_customers.create_customer(organization=secrets.token_hex(16), email="alice@example.org", name="Alice")


@pytest.fixture
def catalogue(standin):
    """Two plans: `fee` and `usage` prices by plan, and the meter by which usage is counted (millionths of a dollar)."""
    from decimal import Decimal

    from billing.stripe import catalogue as c

    meter = c.create_meter(event_name="spend_usd", display_name="Spend in USD")
    found = {"meter": meter}
    for plan, fee in (("pro", 5000), ("team", 20000)):
        c.create_product(id=f"plan_{plan}", name=plan.title(), metadata={"plan": plan})
        tiers = [(10_000_000, Decimal(0)), (None, Decimal("0.0001"))]  # 10 dollars are included
        found[plan] = [
            (
                c.create_price(
                    product=f"plan_{plan}", lookup_key=f"{plan}:fee", currency="USD", minor=Decimal(fee), metadata={}
                ).id,
                False,
            ),
            (
                c.create_metered_price(
                    product=f"plan_{plan}", lookup_key=f"{plan}:usage", currency="USD", meter=meter.id, tiers=tiers, metadata={}
                ).id,
                True,
            ),
        ]
    return found


@pytest.fixture
def subscribe(standin, customer, catalogue):
    """`subscribe(plan="pro", card=…)`: through the checkout page; the subscription."""
    from billing.stripe import customers as c

    def do(plan="pro", card="4242424242424242"):
        session = c.checkout_for_subscription(
            customer=customer.id,
            prices=catalogue[plan],
            metadata={"plan": plan},
            success_url="https://maas.test/ok?session={CHECKOUT_SESSION_ID}",
            cancel_url="https://maas.test/no",
            key=secrets.token_hex(8),
        )
        status, text, _ = standin.click(session.url, card=card, do="pay")
        assert status == 303, text
        return c.retrieve_subscription(c.retrieve_checkout(session.id).subscription)

    return do


@pytest.fixture
def its_clock(standin, embedded, monkeypatch):
    """The platform's clock is the stand-in's, as in a local service, and it has heard of no other Stripe."""
    from billing.models import StripeEvent
    from saas.lib import clock
    from tenants.databases import as_operator

    with as_operator():
        StripeEvent.objects.all().delete()
    monkeypatch.setattr(clock, "now", lambda: datetime.fromtimestamp(standin.world.exact_now(), UTC))


@pytest.fixture
def work(standin):
    """`work()`: everything that was delivered goes through our webhook and is worked through, by a task or by the sweeper."""
    from django.test import Client

    from billing.stripe import events

    taken = []

    def do():
        standin.all_delivered()
        news, taken[:] = standin.got[len(taken) :], standin.got
        for signature, body in news:
            answer = Client().post(
                "/stripe/webhook", body, content_type="application/json", headers={"Stripe-Signature": signature}
            )
            assert answer.status_code == 200, answer.content
            events.process(json.loads(body)["id"])

    return do
