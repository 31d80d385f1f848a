"""Memory in a process that answers calls all day: Python's garbage collector, and what the C library gives back."""

import ctypes
import gc
from contextlib import suppress

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 4 << 20  # bytes; each block from here on is the kernel's again as soon as it is free
NEW_OBJECTS = 2_000  # between two looks at the young ones; by default 700


def settle() -> None:
    """Call it when the process is ready: what exists by now stays, and cycles are looked for a little less often.

    Not seldom: calls make no cycles, but requests of Django and connections that end do, and may hold megabytes.
    Without the fixed threshold glibc raises it to the largest block that was ever freed, and keeps all that is smaller.
    """
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)
