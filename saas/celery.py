"""The Celery application. Queues: `infer.cpu` and `infer.gpu` by hardware, `ops` for everything else.

The broker is the state server and carries ids only; a PostgreSQL row is always the truth, and a sweeper sends again what
was lost. Results are never kept here.
"""

import os

from celery import Celery

from inference.worker import EngineStep  # its `inspect engine` must be known to Celery's clients too

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "saas.settings")

app = Celery("saas")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["inference.predictions"])
app.steps["worker"].add(EngineStep)
