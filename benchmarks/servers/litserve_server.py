"""LitServe: `python litserve_server.py`."""

from __future__ import annotations

import base64

import litserve
import numpy as np
from digits import pixels
from session import SETTINGS, Net


class Served(litserve.LitAPI):
    """A request is a row as JSON, or an image in base64."""

    def setup(self, device: str) -> None:
        self.net = Net()

    def decode_request(self, request: dict) -> np.ndarray:
        if "image" in request:
            return pixels(base64.b64decode(request["image"]))
        return np.asarray(request["x"][0], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> list | np.ndarray:
        rows = x if SETTINGS["max_batch"] > 1 else x[None]
        return self.net.best(rows) if SETTINGS["labels"] else self.net.run(rows)

    def unbatch(self, output: list | np.ndarray) -> list:
        return [row if SETTINGS["labels"] else row[None] for row in output]

    def encode_response(self, output: list | np.ndarray | dict) -> dict:
        if SETTINGS["labels"]:
            return output[0] if isinstance(output, list) else output
        return {"y": output.tolist()}


def main() -> None:
    batching = {"max_batch_size": SETTINGS["max_batch"], "batch_timeout": SETTINGS["window"]}
    api = Served(**(batching if SETTINGS["max_batch"] > 1 else {}))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=SETTINGS["copies"], fast_queue=True, timeout=120)
    listen = {"host": "127.0.0.1", "port": SETTINGS["port"], "generate_client_file": False, "log_level": "error"}
    server.run(**listen, num_api_servers=SETTINGS["processes"])


if __name__ == "__main__":
    main()
