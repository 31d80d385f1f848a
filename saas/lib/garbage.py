"""Python's garbage collector in a process that answers calls all day."""

import gc

NEW_OBJECTS = 2_000  # between two looks at the young ones; by default 700


def settle() -> None:
    """Call it when the process is ready: what exists by now stays, and cycles are looked for a little less often.

    Not seldom: calls make no cycles, but requests of Django and connections that end do, and may hold megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)
