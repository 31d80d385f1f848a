"""Triton's Python backend: model.py in its repository. It answers all requests of a batch with one run."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as triton
from session import SETTINGS, Net


class TritonPythonModel:
    def initialize(self, args: dict) -> None:
        self.net = Net()

    def execute(self, requests: list) -> list:
        parts = [triton.get_input_tensor_by_name(request, SETTINGS["input"]).as_numpy() for request in requests]
        output = self.net.run(parts[0] if len(parts) == 1 else np.concatenate(parts))
        ends = np.cumsum([len(part) for part in parts])[:-1]
        rows = np.split(output, ends)
        return [triton.InferenceResponse([triton.Tensor(SETTINGS["output"], own)]) for own in rows]
