"""Imported before what needs Django: it is set up here, without servers, unless it is already."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "saas.settings")
os.environ.setdefault("DEBUG", "1")
django.setup()
