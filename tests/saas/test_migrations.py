"""Models and migrations say the same, and Django finds nothing to complain about."""

from io import StringIO

from django.core.management import call_command


def test_no_model_has_changed_without_a_migration():
    call_command("makemigrations", "--check", "--dry-run", stdout=StringIO())


def test_the_checks_of_django_find_nothing():
    call_command("check", fail_level="WARNING", stdout=StringIO(), stderr=StringIO())
