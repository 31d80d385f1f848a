"""The gateway in a thread of a Celery worker: a start that fails leaves nothing behind."""

import os
import threading

import pytest
from django.conf import settings

from inference.predictions.runner import GatewayThread
from saas.lib.errors import Unavailable
from tests.waiting import until


def gateway_threads():
    return [thread for thread in threading.enumerate() if thread.name == "gateway"]


def handles():
    return len(os.listdir("/proc/self/fd"))


def test_a_gateway_that_does_not_start_leaves_no_thread_and_no_handle():
    before, open_before = gateway_threads(), handles()
    broken = GatewayThread(settings.CONFIG.model_copy(update={"lanes_url": "nonsense://nowhere"}))

    for _ in range(3):
        with pytest.raises(Unavailable):
            broken.submit(None)

    until(lambda: gateway_threads() == before)
    until(lambda: handles() <= open_before)


def test_a_gateway_that_was_stopped_leaves_no_thread_and_no_handle():
    before, open_before = gateway_threads(), handles()
    gateway = GatewayThread(settings.CONFIG)
    gateway._running()
    assert gateway_threads() != before

    gateway.stop()

    until(lambda: gateway_threads() == before)
    until(lambda: handles() <= open_before)
