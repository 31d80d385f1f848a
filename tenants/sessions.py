"""SESSION_ENGINE: Django's sessions in the database, kept under the hash of their keys.

A session's key is what its holder presents, as cookie or X-Session-Token: who reads the table, or a backup of it, must not be
able to sign in with it. Its keys are random (165 bits), so a plain hash is enough.
"""

import hashlib
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.base_session import AbstractBaseSession
from django.utils import timezone

COLUMN_LENGTH = 40  # of django_session.session_key: 160 bits in hexadecimal digits


def kept(session_key: str) -> str:
    """What the table has for the key that somebody holds. The migration of earlier rows says the same in SQL."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:COLUMN_LENGTH]


class SessionStore(db.SessionStore):
    """Its name is a part of the salt with which the rows' data are signed: as Django's."""

    # Django's own would ask for the plain key; these call the methods below in a thread.
    aload, aexists, acreate, asave, adelete = (
        SessionBase.aload, SessionBase.aexists, SessionBase.acreate, SessionBase.asave, SessionBase.adelete,
    )  # fmt: skip

    def _get_session_from_db(self) -> AbstractBaseSession | None:
        """The row, if there is one that has not expired; otherwise this store has no key any more."""
        rows = self.model.objects.filter(session_key=kept(self.session_key or ""), expire_date__gt=timezone.now())
        found: AbstractBaseSession | None = rows.first()
        if found is None:
            self._session_key = None
        return found

    def exists(self, session_key: str) -> bool:
        return bool(self.model.objects.filter(session_key=kept(session_key)).exists())

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:  # Any: as Django declares it
        row = super().create_model_instance(data)
        row.session_key = kept(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        session_key = session_key or self.session_key
        if session_key is not None:
            self.model.objects.filter(session_key=kept(session_key)).delete()
