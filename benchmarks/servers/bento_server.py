"""BentoML: `bentoml serve bento_server:Served`."""

from __future__ import annotations

import base64

import bentoml
import numpy as np
from digits import pixels
from session import SETTINGS, Net

OPTIONS = {
    "workers": SETTINGS["copies"],
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    "traffic": {"timeout": 120},
}
BATCHED = {"batchable": True, "max_batch_size": SETTINGS["max_batch"]} if SETTINGS["max_batch"] > 1 else {}


@bentoml.service(**OPTIONS)
class Served:
    def __init__(self) -> None:
        self.net = Net()

    @bentoml.api(**BATCHED)
    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.net.run(x.astype(np.float32, copy=False))

    @bentoml.api
    def classify(self, image: str) -> dict:
        return self.net.best(pixels(base64.b64decode(image))[None])[0]
