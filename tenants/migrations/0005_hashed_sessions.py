"""Sessions are kept under the hash of their keys (tenants/sessions.py): those that are there, too, so that nobody is signed out."""

from django.db import migrations

HASH = "UPDATE django_session SET session_key = left(encode(sha256(convert_to(session_key, 'UTF8')), 'hex'), 40)"


class Migration(migrations.Migration):
    dependencies = [("tenants", "0004_terms"), ("sessions", "0001_initial")]

    operations = [migrations.RunSQL(HASH, "DELETE FROM django_session")]  # nobody can tell the keys again: sign in anew
