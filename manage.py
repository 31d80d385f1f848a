#!/usr/bin/env python3
"""Django's command line: `manage.py COMMAND`. Beside `make run` it works on the running service."""

import os
import sys

if __name__ == "__main__":
    from saas.config import ROOT
    from saas.local.environment import use_running_service

    use_running_service(ROOT)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "saas.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
