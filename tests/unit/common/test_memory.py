"""What a serving process does once, so that it does not grow; each in a process of its own."""

import ctypes
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

STEPS = """
import resource, torch
from common.memory import tune_malloc
{call}
def step():
    return [torch.empty(5_000_000, dtype=torch.uint8).fill_(1) for _ in range(10)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
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


def in_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if done.stderr.strip() == "no glibc":
        pytest.skip("this is not glibc")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_however_many_threads_there_are_they_share_two_heaps():
    """By itself glibc would give each of these threads one of its own."""
    assert in_process(USE_HEAPS.format(call="tune_malloc()")).count("<heap nr=") == 2
    assert in_process(USE_HEAPS.format(call="")).count("<heap nr=") > 2


def test_what_one_step_frees_is_there_for_the_next_one():
    """By itself glibc has some of it handed out again, page by page, at each step."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this is not glibc")

    assert int(in_process(STEPS.format(call="tune_malloc()"))) < 100
    assert int(in_process(STEPS.format(call=""))) > 500


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
