"""MLServer: a runtime of one's own, named in model-settings.json."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from session import SETTINGS, Net


class Served(MLModel):
    async def load(self) -> bool:
        self.net = Net()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        output = NumpyCodec.encode_output(SETTINGS["output"], self.net.run(rows))
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
