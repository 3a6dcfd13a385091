"""Memory that a network leaves behind is given back to the system."""

import ctypes
import gc
from contextlib import suppress


def give_back_memory() -> None:
    """Free what only cycles still hold, and have the allocator return what is free.

    glibc keeps what is freed for later, in an arena for each of the threads that have allocated: without
    this, a server's memory grows by a network for each run until all arenas have had a large one.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
