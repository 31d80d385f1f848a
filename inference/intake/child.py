"""The inside of intake's subprocess: `python -m inference.intake.child STAGE JOB PARENT MEMORY CPU`.

STAGE is `static` or `probe`; standard input is the artifact; JOB is the number of an open file with JSON; PARENT the process
id of who started it; MEMORY bytes and CPU seconds that it may take. Writes one JSON object a line to standard output:
`{"stage": …}` as it goes, at last `{"facts": …}` or `{"rejected": verdict}`. Neither Django nor settings are imported here, and
there is no secret to lose: a clean environment, no other open file, an empty working directory.
"""

import json
import os
import resource
import sys
from typing import Any

from inference.engine.child import confine
from inference.intake import probe, static
from inference.intake.rules import Rejected


def main(stage: str, job: int, parent: int, memory_bytes: int, cpu_seconds: int) -> None:
    confine(parent, memory_bytes)
    resource.setrlimit(
        resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1)
    )  # at the hard limit it is SIGKILL, which says nothing
    with os.fdopen(job) as file:
        asked = json.load(file)
    try:
        with os.fdopen(0, "rb") as file:
            artifact = file.read()
        tell("facts", static.examine(artifact) if stage == "static" else _probe(artifact, asked))
    except Rejected as rejected:
        tell("rejected", rejected.verdict())
    except MemoryError:
        tell("rejected", Rejected("memory", "The file could not be read into the memory that intake may take").verdict())
    os._exit(0)  # whatever a model left behind, its destructors do not run


def tell(kind: str, value: object) -> None:
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


def _probe(artifact: bytes, job: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    return probe.Probe(artifact, job, lambda stage: tell("stage", stage)).examine()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
