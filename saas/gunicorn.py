"""gunicorn's configuration: `gunicorn -c saas/gunicorn.py saas.asgi:application`. SIGHUP replaces processes without a gap."""

import sys
from typing import Any

from saas import room, server
from saas.settings import load_config

_config = load_config()
for _name in ("saas.settings", "saas.config"):
    del sys.modules[_name]  # this is gunicorn's master: what it has imported, new processes would not import anew

room.raise_limit()  # the workers inherit it

bind = f"{_config.bind_host}:{_config.port}"
workers = _config.gateway_processes
worker_class = "saas.server.Worker"
proc_name = "gateway"
keepalive = 75  # seconds that an idle connection stays; longer than the 60 of usual proxies, so that they close first
timeout = 30  # seconds without a sign of life until a process is replaced
graceful_timeout = int(server.STOP_SECONDS) + 2
backlog = room.backlog()
accesslog = None  # the gateway and Django write one line per request themselves
errorlog = "-"
loglevel = "warning"
control_socket_disable = True


def on_reload(arbiter: Any) -> None:  # gunicorn.arbiter.Arbiter, which is not typed
    server.ROLLING.begin(arbiter.worker_age)
