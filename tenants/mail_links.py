"""The pages that links in mails lead to: plain forms that work in any browser. They do what allauth's headless routes do.

A GET changes nothing, because mail programs follow links to look at them; the button does it.
"""

from typing import Any

from allauth.account.internal.flows.password_reset import finalize_password_reset, reset_password
from allauth.decorators import rate_limit
from allauth.headless.account.inputs import ResetPasswordInput, ResetPasswordKeyInput, VerifyEmailInput
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views import View

HOW = "docs/accounts.md in the source tells how to sign in."


class VerifyEmailPage(View):
    """`key` is what the mail to a new address carries."""

    title = "Confirm your address"

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        given = VerifyEmailInput({"key": key})
        if not given.is_valid():
            return _gone(request, self.title, "Ask for a new mail, after signing in.")
        address = given.verification.email_address.email
        return _page(request, self.title, f"Is {address} yours, and did you sign up with it?", button="Confirm")

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        given = VerifyEmailInput({"key": key})
        if not given.is_valid() or not given.verification.confirm(request):
            return _gone(request, self.title, "Ask for a new mail, after signing in.")
        return _page(request, "Your address is confirmed", "You can close this page.")


@method_decorator(rate_limit(action="reset_password_from_key"), name="post")
class ResetPasswordPage(View):
    """`key` is what the mail to somebody who forgot their password carries. It is good once."""

    title = "Choose a new password"
    again = "Ask for a new mail."

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        if not ResetPasswordKeyInput({"key": key}).is_valid():
            return _gone(request, self.title, self.again)
        return self._form(request)

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        given = ResetPasswordInput({"key": key, "password": request.POST.get("password", "")})
        if not given.is_valid():
            if "key" in given.errors:
                return _gone(request, self.title, self.again)
            return self._form(request, error=" ".join(given.errors["password"]), status=400)
        reset_password(given.user, given.cleaned_data["password"])
        finalize_password_reset(request, given.user)
        return _page(request, "Your password is changed", f"Sign in with the new one. {HOW}")

    def _form(self, request: HttpRequest, *, error: str = "", status: int = 200) -> HttpResponse:
        text = "All who are signed in with the old one are signed out."
        return _page(request, self.title, text, status, error=error, button="Change the password", asks_password=True)


class SignUpPage(View):
    """Where a mail to an unknown address leads, which somebody has given for a forgotten password."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return _page(request, "Sign up", f"Signing up is a call of the API at the moment. {HOW}")


def _gone(request: HttpRequest, title: str, way_out: str) -> HttpResponse:
    return _page(request, title, way_out, 400, error="This link is wrong, was used already or is too old.")


def _page(request: HttpRequest, title: str, text: str, status: int = 200, **more: Any) -> HttpResponse:  # Any: the template's
    answer = render(request, "mail_links/page.html", {"title": title, "text": text, **more}, status=status)
    answer["Cache-Control"] = "no-store"
    return answer
