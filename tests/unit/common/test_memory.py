"""What a serving process does once, so that it does not grow; each in a process of its own."""

import ctypes
import os
import re
import subprocess
import sys

import pytest
import torch

from common.memory import memory_of

USE_HEAPS = """
import ctypes, threading
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    raise SystemExit("no glibc")
from common.memory import tune_malloc
{call}
libc.malloc.restype = ctypes.c_void_p
alive = threading.Barrier(17)
def use():
    libc.malloc(1000)
    alive.wait()
threads = [threading.Thread(target=use) for _ in range(16)]
for thread in threads:
    thread.start()
alive.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""

TENSORS = """
import ctypes, torch
from common.memory import tune_malloc
class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_int) for name in names.split()]
mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Mallinfo
{call}
before = mallinfo()
tensors = [torch.empty(5_000_000, dtype=torch.uint8) for _ in range(10)]
mapped = mallinfo().hblks - before.hblks
tensors.append(torch.empty(9_000_000, dtype=torch.uint8))
larger = mallinfo().hblks - before.hblks - mapped
del tensors
print(mapped, larger, (mallinfo().arena - before.arena) // 5_000_000)
"""

ON_THREADS = """
import ctypes, threading, torch
from common.memory import tune_malloc
{call}
alive, turn = threading.Barrier(4), threading.Lock()
def use():
    torch.empty(1)
    alive.wait()
    with turn:
        tensors = [torch.empty(5_000_000, dtype=torch.uint8) for _ in range(40)]
        del tensors
    alive.wait()
threads = [threading.Thread(target=use) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""

FREEZE = """
import gc
from common.memory import freeze_objects, thaw_objects
circle = []
circle.append(circle)
freeze_objects()
print(gc.get_freeze_count(), len(gc.get_objects()))
thaw_objects()
print(gc.get_freeze_count())
"""


def in_process(code, **variables):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ | variables
    )
    if done.stderr.strip() == "no glibc":
        pytest.skip("this is not glibc")
    assert done.returncode == 0, done.stderr
    return done.stdout


def second_heap(malloc_info):
    """Return how many bytes the second heap has, and the most that it had."""
    heap = malloc_info.partition('<heap nr="1">')[2]
    return [int(re.search(rf'<system type="{each}" size="(\d+)"', heap)[1]) for each in ("current", "max")]


def test_however_many_threads_there_are_they_share_two_heaps():
    """By itself glibc would give each of these threads one of its own."""
    assert in_process(USE_HEAPS.format(call="tune_malloc()")).count("<heap nr=") == 2
    assert in_process(USE_HEAPS.format(call="")).count("<heap nr=") > 2


def test_what_one_step_frees_is_there_for_the_next_one():
    """Tensors lie in the heap, which stays as large as it was; by itself glibc maps each, and unmaps it."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this is not glibc")

    assert in_process(TENSORS.format(call="tune_malloc()")).split() == ["0", "1", "10"]
    assert in_process(TENSORS.format(call="")).split() == ["10", "1", "0"]


def test_what_malloc_is_told_from_outside_counts():
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this is not glibc")

    mapped = in_process(
        TENSORS.format(call="tune_malloc()"), GLIBC_TUNABLES="glibc.malloc.mmap_threshold=65536"
    )
    assert mapped.split() == ["10", "1", "0"]


def test_what_other_threads_free_is_kept_where_that_is_asked_for():
    """By itself a heap that is not the first thread's gives pieces back, but where a small thing lies."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this is not glibc")

    now, most = second_heap(in_process(ON_THREADS.format(call="tune_malloc(keeps_pieces=True)")))
    assert now == most > 200_000_000
    by_itself = (second_heap(in_process(ON_THREADS.format(call="tune_malloc()"))) for _ in range(4))
    assert any(now < most for now, most in by_itself)


def test_objects_of_the_start_are_searched_no_more_until_the_end():
    frozen, searched, frozen_after = map(int, in_process(FREEZE).split())

    assert frozen > 1000
    assert searched < frozen / 10
    assert frozen_after == 0


def test_a_container_has_no_more_than_its_limit(tmp_path, monkeypatch):
    machine = memory_of(torch.device("cpu"))
    limit, absent, none = tmp_path / "limit", tmp_path / "absent", tmp_path / "none"
    limit.write_text("123456789\n")
    none.write_text("max\n")

    monkeypatch.setattr("common.memory.CONTAINER_LIMITS", (absent, none))
    assert memory_of(torch.device("cpu")) >= machine
    monkeypatch.setattr("common.memory.CONTAINER_LIMITS", (absent, limit))
    assert memory_of(torch.device("cpu")) == 123456789
