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

    report["memory"] = {"limit": 100, "share": 50, "taken": 40, "held": 30, "others": 0, "refused": 6, "ended": 5}

    text = render(worker_families({"infer1@host": report})).decode()

    assert "# TYPE maas_worker_calls_total counter" in text
    assert 'maas_worker_calls_total{worker="infer1@host"} 3.0' in text
    assert 'maas_worker_queue_seconds_total{worker="infer1@host"} 1.5' in text
    assert "# TYPE maas_worker_slots gauge" in text
    assert "_us" not in text
    assert 'maas_customers_memory_limit_bytes{worker="infer1@host"} 100.0' in text
    assert 'maas_customers_memory_bytes{worker="infer1@host"} 40.0' in text
    assert 'maas_customers_memory_held_bytes{worker="infer1@host"} 30.0' in text
    assert 'maas_customers_memory_refused_total{worker="infer1@host"} 6.0' in text
    assert 'maas_customers_memory_ended_total{worker="infer1@host"} 5.0' in text


def test_a_worker_of_an_older_release_which_tells_nothing_of_memory_is_shown_all_the_same():
    report = {"models": [], "slots": 2, "bytes": 7, "counters": {}}

    assert 'maas_customers_memory_bytes{worker="old"} 0.0' in render(worker_families({"old": report})).decode()
