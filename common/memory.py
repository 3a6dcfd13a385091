"""Keeps a process from growing with what comes and goes, and says how much memory it may have."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from common.errors import CloudError, HeadwaterError

# From glibc's malloc.h, and what is set there.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
HEAPS = 2
# What is larger would leave holes in the heaps: an edge of VGG-16 peaked a fifth higher with 32 MiB.
LARGEST_IN_HEAP = 8 << 20
KEPT_FREE = 1 << 30
# Of such pieces the heaps are made that are not the first thread's.
PIECE = 64 << 20
# Where Linux tells a container's limit: with control groups of version 2, and of version 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

_libc = ctypes.CDLL(None)


def tune_malloc(largest_in_heap: int = LARGEST_IN_HEAP, keeps_pieces: bool = False) -> None:
    """Have malloc keep most of what one step frees for the next one, in two heaps; only glibc's does so.

    By itself it gives tensors of a few hundred KiB and more back to the machine, which hands them out again
    page by page, each of them cleared: that took up to a quarter of a step. And it makes up to eight heaps
    for each core. What a thread frees stays in the heap that it came from, and a server's threads change:
    each heap would grow to the most that any thread ever had.

    Args:
        largest_in_heap: bytes of the largest tensor that is kept, at most 32 MiB.
        keeps_pieces: whether the heap of other threads keeps what is wholly free of it, too. The first heap
            asks for as much in advance, which takes no memory until it is used.
    """
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return  # it is told what to do
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, HEAPS)
        mallopt(M_MMAP_THRESHOLD, largest_in_heap)
        mallopt(M_TRIM_THRESHOLD, KEPT_FREE)
        if keeps_pieces:
            # One goes back only where the one before it has so much free at its end, as none has.
            mallopt(M_TOP_PAD, PIECE)


def release_what_is_left() -> None:
    """Free what only cycles hold, and give what malloc has free back to the machine."""
    gc.collect()
    malloc_trim = getattr(_libc, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@contextmanager
def lack_of_memory_said(kind: type[HeadwaterError] = CloudError) -> Iterator[None]:
    """Raise a `kind` where there is not enough memory, as there may be once others have given some back."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_cpu = "can't allocate memory" in str(error)  # torch has no class of its own for it
        if not (on_cpu or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)):
            raise
        raise kind("the cloud has not enough memory for this run just now") from error


def memory_of(device: torch.device) -> int:
    """Return how many bytes of memory a device has, or the machine or container where that is the device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # another kernel, or "max"
            found.append(int(path.read_text()))
    return min(found)


def freeze_objects() -> None:
    """Take what there is now, most of it torch's, out of Python's search for cycles.

    It searches all objects only when a quarter as many have been added. With some hundred thousand to start
    from, the networks and errors that are held by cycles would pile up to hundreds of megabytes before that.
    """
    gc.collect()
    gc.freeze()


def thaw_objects() -> None:
    """Undo `freeze_objects`: at its end Python searches once more, for what libraries want to see gone."""
    gc.unfreeze()
