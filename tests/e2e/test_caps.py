"""64 callers over 4 keys and 2 gateways against a cap, while every process is killed: what is charged is the cap, exactly.

CAPS_CALLS=10000 is the long form.
"""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
import requests

from tests.e2e.customers import Customer
from tests.e2e.history import IRIS, Caller, History, Sent, check
from tests.e2e.test_exactness import settled
from tests.service import Service
from tests.waiting import PATIENCE, until, until_async

pytestmark = [pytest.mark.no_servers, pytest.mark.timeout(900)]

CALLS = int(os.environ.get("CAPS_CALLS", "800"))
CALLERS, KEYS = 64, 4
PRICE = 1_000_000  # nano; one call
EVERY = ("one gateway", "worker", "bookkeeper", "state", "gateway", "lanes", "postgres")
FEW = ("one gateway", "state") if CALLS < 10_000 else EVERY
PATH = "/api/v1/models/iris/predict"
SETUP = """
from uuid import UUID
from django.core.management import call_command
from billing.caps import credit
from billing.sale import plans
from tenants.access import SYSTEM
from tenants.actions import set_organization_limits
o = UUID("{organization}")
plans.change(o, "{plan}", actor=SYSTEM)
set_organization_limits(o, rate=1e6, burst=1000000, concurrency=10000)
call_command("set_price", "catalog/iris", "--organization={slug}", "--call=0.001", "--reason=test")
if {credit}:
    credit.grant(o, amount_nano={credit}, category="paid", reason="test", actor=SYSTEM)
"""


@pytest.fixture(scope="module")
def two_gateways():
    running = Service(GATEWAY_PROCESSES="2")
    try:
        yield running.start()
    finally:
        running.remove()


class Pressure:
    """Callers that call again and again until `stop`; `history` is what they were told."""

    def __init__(self, service: Service, callers: list[Caller]) -> None:
        self.service, self.callers, self.history = service, callers, History()
        self.answered, self.is_stopped = 0, False
        self.refusals: Counter[tuple[str, str]] = Counter()  # (code, name of the cap)

    async def run(self) -> None:
        timeout, connector = aiohttp.ClientTimeout(total=40.0), aiohttp.TCPConnector(limit=CALLERS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._call(session, self.callers[number % KEYS]) for number in range(CALLERS)))

    async def _call(self, session: aiohttp.ClientSession, caller: Caller) -> None:
        while not self.is_stopped:
            sent = Sent(caller, "predict", uuid4().hex)
            self.history.sent.append(sent)
            try:
                await self._one(session, sent)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                sent.detail = repr(error)
            if sent.status == 200:
                self.answered += 1
            else:
                await asyncio.sleep(0.05)  # a refused caller comes again, but leaves the others some of the processor

    async def _one(self, session: aiohttp.ClientSession, sent: Sent) -> None:
        headers = {"Authorization": f"Bearer {sent.caller.key}", "X-Request-Id": sent.request_id}
        async with session.post(self.service.base_url + PATH, json={"inputs": [IRIS[0]]}, headers=headers) as response:
            body = await response.json(content_type=None)
            sent.status = response.status
            if response.status == 402:
                self.refusals[body["code"], body["cap"]["name"]] += 1


def kill(service: Service, part: str) -> None:
    """kill -9 of a part; of "one gateway" only one of its processes."""
    if part != "one gateway":
        service.kill(part)
        return
    master = service.process("gateway")
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


def answers(service: Service, key: str) -> bool:
    """Whether calls are decided again: answered, or refused by a cap."""
    headers = {"Authorization": f"Bearer {key}"}
    try:
        status = requests.post(service.base_url + PATH, json={"inputs": [IRIS[0]]}, headers=headers, timeout=5).status_code
    except requests.RequestException:
        return False
    return status in (200, 402)


def charged(service: Service, organization: str) -> int | None:
    """Nano that the organization is charged when no call is open; None while one is."""
    with service.state() as state:
        sessions = (key for kind in ("open:*", "reaping:*") for key in state.scan_iter(kind))  # a reaper renames the first
        if any(len(name) == 32 for key in sessions for name in state.hkeys(key)):
            return None
        return int(state.hget(f"account:{organization}", "nano:ever:") or 0)


def customer_of(service: Service, plan: str, credit: int) -> Customer:
    customer = Customer(service)
    setup = SETUP.format(organization=customer.organization, slug=customer.slug, plan=plan, credit=credit)
    service.manage("shell", "-c", setup)
    started = "SELECT max(starts_at) <= now() FROM price_version WHERE tenant_id = %s"
    until(lambda: service.rows(started, customer.organization) == [(True,)], what="the price to be in force")
    return customer


def callers_of(customer: Customer, budget: str | None) -> list[Caller]:
    """Of four new keys: gateways meet them with the prices that hold now."""
    callers = []
    for _ in range(KEYS):
        made = customer.post("keys", json={"name": "caps"}).json()
        callers.append(Caller(customer.organization, made["key"], "iris"))
        if budget is not None:
            set_budget(customer, made["id"], budget)
    return callers


def set_budget(customer: Customer, whose: str, amount: str) -> None:
    url = f"{customer.base_url}/api/v1/billing/budgets/{whose}"
    answer = requests.put(url, json={"amount": amount}, headers=customer.session, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text


async def disturbed(pressure: Pressure, service: Service, parts: tuple[str, ...], probe: str) -> None:
    """The callers' pressure, while one part after the other is killed; until nothing can be called any more."""
    running = asyncio.create_task(pressure.run())
    for place, part in enumerate(parts, 1):
        await until_async(lambda place=place: pressure.answered > CALLS * place // (len(parts) + 2))
        await asyncio.to_thread(kill, service, part)
        await asyncio.to_thread(until, lambda: answers(service, probe), what=f"answers after the end of {part}")
    organization = pressure.callers[0].organization
    await asyncio.to_thread(
        until, lambda: charged(service, organization) == CALLS * PRICE, seconds=300, what="the cap to be used up"
    )
    pressure.is_stopped = True
    await running


@pytest.mark.parametrize(
    ("kind", "plan", "code", "parts"),
    [
        ("credit", "prepaid", "credit_exhausted", EVERY),
        ("budget", "custom", "budget_exceeded", FEW),
        ("key budgets", "custom", "budget_exceeded", FEW),
    ],
)
def test_what_is_charged_is_the_cap_exactly(two_gateways, kind, plan, code, parts):
    service = two_gateways
    customer = customer_of(service, plan, CALLS * PRICE if kind == "credit" else 0)
    if kind == "budget":
        set_budget(customer, "organization", f"{CALLS * PRICE / 1e9:f}")
    callers = callers_of(customer, f"{CALLS * PRICE / KEYS / 1e9:f}" if kind == "key budgets" else None)
    pressure = Pressure(service, callers)

    asyncio.run(disturbed(pressure, service, parts, service.api_key))

    rows = settled(service, [customer])
    assert check(pressure.history, rows, is_disturbed=True)[:20] == []
    found = service.rows(
        "SELECT count(*), sum(amount_nano)::bigint FROM usage_event WHERE tenant_id = %s AND kind = 'usage'",
        customer.organization,
    )
    assert found == [(CALLS, CALLS * PRICE)]
    assert set(pressure.refusals) == {(code, "credit" if kind == "credit" else "budget")}
    if kind == "credit":
        left = "SELECT sum(remaining_nano)::bigint FROM credit_grant WHERE tenant_id = %s"
        until(lambda: service.rows(left, customer.organization) == [(0,)], what="the credit to be charged")
        overrun = "SELECT sum(burnt_nano)::bigint, sum(overrun_nano)::bigint FROM credit_month WHERE tenant_id = %s"
        assert service.rows(overrun, customer.organization) == [(CALLS * PRICE, 0)]
    service.manage("verify_books")
