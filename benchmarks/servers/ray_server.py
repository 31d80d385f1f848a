"""Ray Serve: `python ray_server.py`. The environment that benchmarks/peers.py gives it chooses HAProxy and throughput mode."""

from __future__ import annotations

import os

import numpy as np
import ray
from ray import serve
from session import SETTINGS, Net
from starlette.requests import Request


class Single:
    def __init__(self) -> None:
        self.net = Net()

    async def rows(self, request: Request) -> np.ndarray:
        """A row as JSON, or as float32 values."""
        if request.headers["content-type"] == "application/json":
            return np.asarray((await request.json())["x"], np.float32)
        return np.frombuffer(await request.body(), np.float32).reshape(1, *SETTINGS["shape"])

    async def __call__(self, request: Request) -> dict:
        return {"y": self.net.run(await self.rows(request)).tolist()}


class Batched(Single):
    @serve.batch(max_batch_size=SETTINGS["max_batch"], batch_wait_timeout_s=SETTINGS["window"])
    async def run(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.net.run(np.concatenate(rows))[:, None])

    async def __call__(self, request: Request) -> dict:
        return {"y": (await self.run(await self.rows(request))).tolist()}


def main() -> None:
    cores = max(os.cpu_count() or 1, SETTINGS["copies"])
    ray.init(address="local", num_cpus=cores, include_dashboard=False, _temp_dir=os.environ["BENCH_RAY_FOLDER"])
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS["port"]})
    kind = Batched if SETTINGS["max_batch"] > 1 else Single
    serve.run(serve.deployment(kind, num_replicas=SETTINGS["copies"], max_ongoing_requests=1024).bind(), blocking=True)


if __name__ == "__main__":
    main()
