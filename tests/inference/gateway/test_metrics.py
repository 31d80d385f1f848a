"""The counters of a gateway process in Prometheus' text form."""

import pytest

from inference.gateway.health import worker_families
from inference.gateway.metrics import Metrics, render

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize("process", ["", "4711"])
def test_counters_carry_the_process_that_they_were_given_and_no_other(process):
    metrics = Metrics(process)
    metrics.observe("POST", "predict", 200, "", 0.002, rows=3)

    lines = [line for line in render(list(metrics.collect())).decode().splitlines() if not line.startswith("#")]

    assert f'maas_rows_total{{process="{process}",route="predict"}} 3.0' in lines
    assert all(f'process="{process}"' in line for line in lines)


def test_what_only_grows_is_a_counter_in_the_fields_units():
    report = {"models": [], "slots": 2, "bytes": 7, "counters": {"calls": 3, "queue_us": 1_500_000}}

    text = render(worker_families({"infer1@host": report})).decode()

    assert "# TYPE maas_worker_calls_total counter" in text
    assert 'maas_worker_calls_total{worker="infer1@host"} 3.0' in text
    assert 'maas_worker_queue_seconds_total{worker="infer1@host"} 1.5' in text
    assert "# TYPE maas_worker_slots gauge" in text
    assert "_us" not in text
