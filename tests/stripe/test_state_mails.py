"""Owners are told of their account's state, once each time."""

import pytest
from django.core import mail
from django.core.mail.backends import locmem
from django.utils import timezone

from billing.sale import plans
from billing.sale.models import State, Subscription
from billing.stripe import state_mails
from billing.stripe.following import STRIPE
from tenants.databases import as_operator
from tests.racing import at_once


@pytest.fixture
def mails_to(mailoutbox):
    """`mails_to(user)`: the subjects of what was sent to them since it was asked last."""

    def found(user):
        subjects = [message.subject for message in mailoutbox if user.email in message.recipients()]
        mailoutbox.clear()
        return subjects

    return found


def put(organization, state):
    plans.set_state(organization.id, State(state), actor=STRIPE)
    state_mails.mail_due()


def test_each_step_is_told_once_and_that_all_is_well_again(alice, mails_to):
    told = []
    for state in ("past_due", "grace", "suspended", "active", "active"):
        put(alice.organization, state)
        told.append([subject.partition(":")[0] for subject in mails_to(alice)])
        state_mails.mail_due()
        assert mails_to(alice) == []

    assert told == [
        ["A payment was refused"],
        ["A payment is still refused"],
        ["Calls are refused until an invoice is paid"],
        ["Everything is paid"],
        [],
    ]


def test_who_is_active_from_the_beginning_hears_nothing(alice, mails_to):
    put(alice.organization, "trialing")
    put(alice.organization, "active")

    assert mails_to(alice) == []


def test_developers_and_strangers_are_not_told_but_billing_is(alice, bob, charlie, make_user, join, mails_to):
    accountant = join(make_user("accountant"), alice.organization, "billing")
    put(alice.organization, "past_due")
    sent = list(mail.outbox)

    recipients = {address for message in sent for address in message.recipients()}
    assert {alice.email, accountant.email} <= recipients
    assert not {bob.email, charlie.email} & recipients


def test_it_says_how_to_pay(alice, mailoutbox, settings):
    put(alice.organization, "suspended")
    message = next(message for message in mailoutbox if alice.email in message.recipients())

    assert f"{settings.CONFIG.base_url}/api/v1/billing/portal" in message.body


def test_of_many_who_look_one_mails(alice, mails_to):
    plans.set_state(alice.organization.id, State.PAST_DUE, actor=STRIPE)
    at_once(*[state_mails.mail_due] * 4)

    assert len(mails_to(alice)) == 1


def test_who_is_killed_while_mailing_leaves_it_to_the_next(alice, mailoutbox, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, messages):
        mailoutbox.extend(messages)  # the server had it already
        raise Killed

    def mine():
        return [message for message in mailoutbox if alice.email in message.recipients()]

    while state_mails.mail_due():  # what other tests have left
        pass
    plans.set_state(alice.organization.id, State.PAST_DUE, actor=STRIPE)
    with monkeypatch.context() as patched:
        patched.setattr(locmem.EmailBackend, "send_messages", killed)
        with pytest.raises(Killed):
            state_mails.mail_due()
    state_mails.mail_due()
    assert len(mine()) == 1  # the first one may be at it still
    with as_operator():
        Subscription.objects.of(alice.organization).current().update(telling_until=timezone.now())
    state_mails.mail_due()
    put(alice.organization, "active")

    names = [message.extra_headers["Message-ID"] for message in mine()]
    assert names[0] == names[1] != names[2]


def test_a_mail_server_that_is_away_delays_it(alice, mails_to, settings):
    works = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1  # nobody listens there
    put(alice.organization, "past_due")
    assert mails_to(alice) == []

    settings.EMAIL_BACKEND = works
    state_mails.mail_due()
    assert mails_to(alice) == [f"A payment was refused: {alice.organization.slug}"]


def test_a_change_of_plan_tells_nothing_anew(alice, mails_to):
    put(alice.organization, "past_due")
    mails_to(alice)
    plans.change(alice.organization.id, "pay-as-you-go", actor=STRIPE)
    state_mails.mail_due()

    assert mails_to(alice) == []
