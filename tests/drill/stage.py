"""Whom the load calls for: organizations with their models, prices, plans and caps."""

import tempfile
from dataclasses import dataclass, field

import requests

from saas.lib.ids import parse_id
from saas.lib.money import text_of
from tests.drill.evidence import Caller, Purse
from tests.drill.load import ANSWER_WITHIN, SHARED
from tests.e2e.customers import Customer, identity_model
from tests.service import Service
from tests.waiting import PATIENCE, until

SCOPES = ["predictions:write", "predictions:read", "models:read"]
PLANS = ["custom", "custom", "pay-as-you-go", "custom", "prepaid"]
PRICE = {"call": 1_000_000, "row": 123_457, "second": 100_000}  # nano, of who has a budget or credit, for every model
SETUP = """
from uuid import UUID
from django.core.management import call_command
from billing.caps import credit
from billing.sale.plans import change
from tenants.access import SYSTEM, Actor
from tenants.actions import set_organization_limits
call_command('publish', {artifact!r}, '--name', {shared!r})
call_command('set_price', 'catalog/{shared}', '--row=0.0001', '--second=0.5', '--reason=drill')
for organization, slug, plan, monthly_calls, options in {organizations!r}:
    change(UUID(organization), plan, actor=Actor('operator'))
    set_organization_limits(UUID(organization), rate=1e6, burst=1000000, concurrency=10000, monthly_calls=monthly_calls)
    for model in ([''], ['', 'catalog/{shared}'])[plan != 'pay-as-you-go']:
        if options:
            call_command('set_price', model, '--organization=' + slug, '--reason=drill', *options)
credit.grant(UUID({prepaid!r}), amount_nano={credit}, category='paid', reason='for the drill', actor=SYSTEM)
"""
STARTED = "SELECT bool_and(starts_at <= now()) FROM price_version WHERE tenant_id IS NOT NULL"
GIVEN = "SELECT bool_and(stripe_due_at IS NULL) FROM subscription WHERE ended_at IS NULL"  # plans are in force at Stripe
SUBSCRIBED = """
SELECT replace(tenant_id::text, '-', '') FROM subscription WHERE ended_at IS NULL AND stripe_subscription <> ''
AND tenant_id = ANY(%s::uuid[])
"""


@dataclass
class Stage:
    """`caps`: calls a month of an organization or a key; `purses`: money. `subscribed`: whose usage Stripe is told."""

    customers: list[Customer]
    callers: list[Caller]
    caps: dict[tuple[str, str], int] = field(default_factory=dict)
    purses: dict[tuple[str, str], Purse] = field(default_factory=dict)
    subscribed: set[str] = field(default_factory=set)

    @property
    def limited(self) -> list[Caller]:
        """Those of a cap or a purse, who soon get nothing but refusals."""
        limits = self.caps.keys() | self.purses.keys()
        return [caller for caller in self.callers if {(caller.organization, ""), (caller.organization, caller.key)} & limits]

    @property
    def prepaid(self) -> set[str]:
        """The organizations with credit."""
        return {organization for (organization, _), purse in self.purses.items() if purse.kind == "credit"}

    @property
    def free(self) -> list[Caller]:
        return [caller for caller in self.callers if caller not in self.limited]


def set_up(service: Service, *, cap: int) -> Stage:
    """Five organizations with two keys each. Capped: one as a whole, and of one a key, at `cap` calls a month; one not at all;
    one has a budget, and a lower one for a key; one has credit. Both pay for about `cap` calls. Stripe invoices the usage of
    all whose plan is paid for afterwards.
    """
    customers = [Customer(service) for _ in PLANS]
    for number, customer in enumerate(customers):
        customer.upload(f"drilled-{number}", identity_model())
    capped, half, _, thrifty, prepaid = customers
    money = cap * sum(PRICE.values())
    _grant(service, customers, {capped: cap}, prepaid, money)
    half_limits = {"monthly_calls": cap}
    stage = Stage(
        customers,
        [
            _caller(customer, number, half_limits if customer is half and is_second else {})
            for number, customer in enumerate(customers)
            for is_second in (False, True)
        ],
    )
    second = {customer: stage.callers[2 * number + 1] for number, customer in enumerate(customers)}
    stage.caps = {(capped.organization, ""): cap, (half.organization, second[half].key): cap}
    for key, kind, limit in (("", "budget", money), (second[thrifty].key, "budget", money // 4)):
        _set_budget(thrifty, second[thrifty].shown_id if key else "organization", limit)
        stage.purses[thrifty.organization, key] = Purse(kind, limit, timeout=ANSWER_WITHIN, **PRICE)
    stage.purses[prepaid.organization, ""] = Purse("credit", money, timeout=ANSWER_WITHIN, **PRICE)
    until(lambda: service.rows(STARTED) == [(True,)], what="the prices to be in force")
    until(lambda: service.rows(GIVEN) == [(True,)], what="the plans to be in force at the stand-in of Stripe")
    found = service.rows(SUBSCRIBED, [customer.organization for customer in customers])
    stage.subscribed = {organization for (organization,) in found}
    return stage


def _grant(service: Service, customers: list[Customer], calls: dict[Customer, int], prepaid: Customer, credit: int) -> None:
    """What an operator may: plans and prices, each cap, no other limit that the load could meet; the shared model; credit."""
    options = [f"--{unit}={text_of(nano)}" for unit, nano in PRICE.items()]
    carried = ["--call=0.000123457"]  # of which no two calls make a whole unit
    organizations = [
        (customer.organization, customer.slug, plan, calls.get(customer), given)
        for customer, plan, given in zip(customers, PLANS, ([], [], carried, options, options), strict=True)
    ]
    with tempfile.NamedTemporaryFile(suffix=".onnx") as artifact:
        artifact.write(identity_model())
        artifact.flush()
        values = {"artifact": artifact.name, "shared": SHARED.partition("/")[2], "organizations": organizations}
        service.manage("shell", "-c", SETUP.format(**values, prepaid=prepaid.organization, credit=credit))


def _caller(customer: Customer, number: int, limits: dict[str, int]) -> Caller:
    made = customer.post("keys", json={"name": "drill", "scopes": SCOPES, "limits": limits})
    assert made.status_code == 201, made.text
    key = parse_id("key", made.json()["id"])
    assert key is not None
    return Caller(customer.organization, key.hex, made.json()["key"], f"drilled-{number}", made.json()["id"])


def _set_budget(customer: Customer, whose: str, nano: int) -> None:
    url = f"{customer.base_url}/api/v1/billing/budgets/{whose}"
    answer = requests.put(url, json={"amount": text_of(nano)}, headers=customer.session, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
