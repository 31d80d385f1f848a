"""Signing up, as allauth is told to do it: with the user comes an organization of their own."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.signup import send_unknown_account_mail
from allauth.account.models import EmailAddress
from django import forms
from django.db import transaction
from django.http import HttpRequest

from saas.lib.errors import NotFound, StateConflict
from saas.lib.inserts import insert_once
from tenants import recovery
from tenants.access import Actor
from tenants.actions import create_organization
from tenants.models import User


class OrganizationForm(forms.Form):
    """The field that sign-up has on top of allauth's: a name for the organization."""

    organization = forms.CharField(max_length=150, required=False)

    def signup(self, request: HttpRequest, user: User) -> None:
        """Part of allauth's protocol; the adapter below does the work."""


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is not typed
    def get_phone(self, user: User) -> None:
        """allauth has its routes of phone numbers whether there are any or not."""
        raise NotFound("This service keeps no phone numbers.")

    def add_message(self, *_: Any, **__: Any) -> None:  # Any: as allauth calls it
        """Nothing: the pages of links in mails say themselves what was done, and no later page should repeat it."""

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        """The account goes by this address from now on, if it went by one that nobody has confirmed."""
        is_confirmed: bool = super().confirm_email(request, email_address)
        if is_confirmed:
            recovery.prefer_confirmed(email_address)
        return is_confirmed

    def send_password_reset_mail(self, user: User, email: str, context: dict[str, Any]) -> None:  # Any: the template's
        """To an address that the account goes by. To another as if it had no account, which is so from then on."""
        if recovery.goes_by(user, email):
            super().send_password_reset_mail(user, email, context)
        else:
            EmailAddress.objects.filter(user=user, email__iexact=email, verified=False, primary=False).delete()
            send_unknown_account_mail(self.request, email)

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:  # Any: allauth's form
        """Store the user and, in the same transaction, an organization that they own."""
        user = super().save_user(request, user, form, commit=False)
        if not commit:
            return user
        with transaction.atomic():
            if not insert_once(user):  # two sign-ups with one address at once: allauth has looked before
                raise StateConflict("Somebody has signed up with this address already.")
            name = form.cleaned_data.get("organization") or user.email.partition("@")[0]
            create_organization(name=name, owner=user, actor=Actor.of(user))
        return user
