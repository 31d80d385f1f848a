"""The counters of a gateway process in Prometheus' text form."""

import pytest

from inference.gateway.metrics import Metrics, render

pytestmark = pytest.mark.no_servers


@pytest.mark.parametrize("process", ["", "4711"])
def test_counters_carry_the_process_that_they_were_given_and_no_other(process):
    metrics = Metrics(process)
    metrics.observe("POST", "predict", 200, "", 0.002, rows=3)

    lines = [line for line in render(list(metrics.collect())).decode().splitlines() if not line.startswith("#")]

    assert f'maas_rows_total{{process="{process}",route="predict"}} 3.0' in lines
    assert all(f'process="{process}"' in line for line in lines)
