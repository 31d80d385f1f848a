"""One way to open a model, and what a peer's server is told of this run: SETTINGS, from the environment."""

from __future__ import annotations

import json
import os

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

SETTINGS = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))  # benchmarks/peers.py says what is in it


def open_session(file: str) -> ort.InferenceSession:
    """One thread and no spinning: the cores are shared by requests that run at the same time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class Net:
    """The model of this run."""

    def __init__(self) -> None:
        self.session = open_session(SETTINGS["file"])

    def run(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n, …) float32 → (n, k) float32."""
        return np.asarray(self.session.run([SETTINGS["output"]], {SETTINGS["input"]: rows})[0])

    def best(self, rows: npt.NDArray[np.float32]) -> list[dict[str, object]]:
        """Per row its best label with the confidence."""
        scores = self.run(rows)
        columns = scores.argmax(axis=1)
        return [
            {"label": SETTINGS["labels"][column], "confidence": float(row[column])}
            for column, row in zip(columns, scores, strict=True)
        ]
