"""What is refused before anything is started."""

import onnxruntime
import pytest

from saas.local.preconditions import CannotStart, refuse_missing_gpu

pytestmark = pytest.mark.no_servers


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_a_gpu_that_cannot_be_used_is_refused_by_the_name_of_the_setting():
    with pytest.raises(CannotStart, match=r"ENGINE_HARDWARE is gpu.*onnxruntime-gpu"):
        refuse_missing_gpu({"ENGINE_HARDWARE": "gpu"})


@pytest.mark.parametrize("given", [{}, {"ENGINE_HARDWARE": "cpu"}])
def test_without_a_gpu_nothing_is_asked(given):
    refuse_missing_gpu(given)
