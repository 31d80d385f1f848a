"""Many workers in one process: each waits on a connection of its own for the lanes of the same versions, answers what it takes
with nothing, and tells each second what a worker tells (inference.host). Started by benchmarks.growth.hotpath.
"""

import asyncio
import json
import sys
import time
from typing import Any

import msgspec

from inference.engine.budget import MemoryReport
from inference.host import BELIEVED_SECONDS, REPORT_SECONDS, TICK_SECONDS
from inference.lanes import WORKERS, Reply, lane_key, lanes_key, resident_key, unpack_work, worker_key
from inference.pump import POP_SECONDS, Counters
from inference.replies import messages
from inference.reports import ModelReport, make_report
from saas.lib.valkey import Connection

MAX_CALLS = 64
MEMORY = MemoryReport(limit=0, share=0, taken=0, held=0, others=0, refused=0, ended=0, processes=[])


class Worker:
    def __init__(self, name: str, versions: list[str]) -> None:
        self.name, self.versions = name, versions
        keys = [lane_key(version, low=low) for low in (False, True) for version in versions]
        self._pop: tuple[str | int, ...] = ("BLMPOP", POP_SECONDS, len(keys), *keys, "LEFT", "COUNT", MAX_CALLS)

    async def start(self, url: str) -> None:
        self._connection = await Connection.connect(url)
        self._ask()

    def _ask(self) -> None:
        self._connection.send(self._take, *self._pop)

    def _take(self, reply: Any) -> None:  # Any: what Valkey says
        if isinstance(reply, Exception):
            return
        if reply is not None:
            works = [unpack_work(frame) for frame in reply[1]]
            answers = [(work.gateway, Reply(work.number, outputs=[])) for work in works]
            for channel, message in messages(answers):
                self._connection.send(None, "PUBLISH", channel, message)
        self._ask()

    def tell(self, others: Connection) -> None:
        models = [ModelReport(version, 1 << 20, False, 10.0) for version in self.versions]
        report = make_report(
            Counters(),
            name=self.name,
            hardware="cpu",
            slots=2,
            children=0,
            models=models,
            loading=0,
            memory=MEMORY,
            suspects=[],
        )
        others.send(None, "ZADD", WORKERS, time.time() + BELIEVED_SECONDS, self.name)
        others.send(None, "SET", worker_key(self.name), msgspec.json.encode(report), "EX", REPORT_SECONDS)
        for version in self.versions:
            others.send(None, "SET", resident_key(version), self.name, "EX", BELIEVED_SECONDS)
        others.send(None, "SADD", lanes_key("cpu"), *self.versions)


async def serve(url: str, versions: list[str], count: int) -> None:
    workers = [Worker(f"worker-{number}", versions) for number in range(count)]
    tells = await Connection.connect(url)
    for worker in workers:
        worker.tell(tells)
        await worker.start(url)
    await tells.call("PING")
    print("ready", flush=True)
    while True:
        await asyncio.sleep(TICK_SECONDS)
        for worker in workers:
            worker.tell(tells)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], json.loads(sys.stdin.readline()), int(sys.argv[2])))
