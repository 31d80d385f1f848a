"""Rows of which another may be there already, as an outcome that is no failure."""

from django.db.models import Model


def insert_once(row: Model) -> bool:
    """INSERT … ON CONFLICT DO NOTHING: False if a row that excludes this one by a unique constraint is there, or came first.

    PostgreSQL logs nothing of it; of a constraint's error it would log the whole statement, which holds the row.
    """
    rows = type(row)._default_manager
    rows.bulk_create([row], ignore_conflicts=True)
    return rows.filter(pk=row.pk).exists()
