"""The pages that links in mails lead to: each does what it says, once, in a browser without scripts."""

import re
from urllib.parse import urlsplit

import pytest
from django.test import Client

from tests.tenants.test_signup import APP, PASSWORD, sign_up

NEW = "a new battery staple"


def link_in(mail):
    """The path of the one link of ours in a mail."""
    (url,) = set(re.findall(r"http://\S+/account/\S+", mail.body))
    return urlsplit(url).path


def press(browser, path, address, **fields):
    """Load the page and send its form, with what is hidden in it."""
    page = browser.get(path)
    assert page.status_code == 200, page.content
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.content.decode())[1]
    return browser.post(path, {"csrfmiddlewaretoken": token, **fields}, REMOTE_ADDR=address)


def sign_in(email, password, address):
    body = {"email": email, "password": password}
    return Client().post(f"{APP}/login", body, content_type="application/json", REMOTE_ADDR=address)


def is_verified(token):
    (shown,) = Client().get("/_allauth/app/v1/account/email", headers={"X-Session-Token": token}).json()["data"]
    return shown["verified"]


def reset_link(mailoutbox, email, address):
    mailoutbox.clear()
    asked = Client().post(f"{APP}/password/request", {"email": email}, content_type="application/json", REMOTE_ADDR=address)
    assert asked.status_code == 200
    return link_in(mailoutbox[-1])


def test_an_address_is_confirmed_by_the_button_and_not_by_looking(browser, mailoutbox, email, address):
    token = sign_up(Client(), email, address).json()["meta"]["session_token"]
    link = link_in(mailoutbox[-1])

    assert email in browser.get(link).content.decode()
    assert not is_verified(token)
    assert press(browser, link, address).status_code == 200

    assert is_verified(token)
    assert "messages" not in browser.cookies
    assert browser.get(link).status_code == 400


def test_a_new_password_is_chosen_once_and_the_old_one_is_worth_nothing(browser, mailoutbox, email, address):
    token = sign_up(Client(), email, address).json()["meta"]["session_token"]
    link = reset_link(mailoutbox, email, address)

    assert press(browser, link, address, password=NEW).status_code == 200

    assert sign_in(email, NEW, address).status_code == 200
    assert sign_in(email, PASSWORD, address).status_code == 400
    assert Client().get("/api/v1/me", headers={"X-Session-Token": token}).status_code == 401
    assert browser.get(link).status_code == 400
    again = browser.post(link, {"csrfmiddlewaretoken": browser.cookies["csrftoken"].value, "password": "x" * 20})
    assert again.status_code == 400


@pytest.mark.parametrize("password", ["short", "password123", ""])
def test_a_weak_password_is_refused_with_the_reason_and_the_link_stays_good(browser, mailoutbox, email, address, password):
    sign_up(Client(), email, address)
    link = reset_link(mailoutbox, email, address)

    refused = press(browser, link, address, password=password)

    assert refused.status_code == 400
    assert 'role="alert"' in refused.content.decode()
    assert press(browser, link, address, password=NEW).status_code == 200
    assert sign_in(email, NEW, address).status_code == 200


@pytest.mark.parametrize("page", ["verify-email", "password/reset"])
@pytest.mark.parametrize("key", ["x", "a:b:c", "0-0", "%00", "%F0%9F%90%8D", "x" * 3000])
def test_a_wrong_link_is_a_page_that_says_so(browser, page, key):
    answer = browser.get(f"/account/{page}/{key}")

    assert answer.status_code == 400
    assert "This link is wrong" in answer.content.decode()


def test_a_form_from_elsewhere_changes_nothing(browser, mailoutbox, email, address):
    token = sign_up(Client(), email, address).json()["meta"]["session_token"]

    assert browser.post(link_in(mailoutbox[-1])).status_code == 403

    assert not is_verified(token)


def test_who_is_unknown_is_sent_to_a_page_that_there_is(browser, mailoutbox, email, address):
    link = reset_link(mailoutbox, email, address)

    assert link == "/account/signup"
    assert browser.get(link).status_code == 200


def test_guessing_links_is_limited_by_address(browser, address):
    browser.get("/account/signup")
    statuses = [
        Client().post("/account/password/reset/x", {"password": NEW}, REMOTE_ADDR=address).status_code for _ in range(30)
    ]

    assert set(statuses) == {400, 429}
