"""The turns that sessions on one device take."""

import gc
import threading
import weakref

import pytest
import torch

from benchmarks.processes import wait_for
from cloud_worker.turns import Turns

PATIENCE_S = 60.0


def test_steps_run_in_the_order_of_asking_one_by_one_on_the_same_thread():
    """Whoever had one waits for all that asked meanwhile; with a plain lock it mostly gets it again."""
    turns, order, names, go = Turns(), [], set(), threading.Event()

    def step(name):
        names.add(threading.current_thread().name)
        order.append(name)
        if name == "first":
            go.wait(PATIENCE_S)

    def ask(*steps):
        for name in steps:
            turns.take(lambda name=name: step(name))

    threads = [threading.Thread(target=ask, args=("first", "again"))]
    threads[0].start()
    wait_for(lambda: bool(order), "the first step", PATIENCE_S)
    for number, name in enumerate("abc", start=1):
        threads.append(threading.Thread(target=ask, args=(name,)))
        threads[-1].start()
        wait_for(lambda number=number: turns._thread._work_queue.qsize() == number, "its place", PATIENCE_S)
    assert order == ["first"]
    go.set()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert order == ["first", "a", "b", "c", "again"]
    assert len(names) == 1


def test_a_step_that_fails_leaves_nothing_behind():
    """What it worked on goes with its error, not when Python next looks for cycles."""
    turns = Turns()

    def step(tensor):
        raise ZeroDivisionError

    def fails():
        tensor = torch.zeros(8)
        with pytest.raises(ZeroDivisionError):
            turns.take(lambda: step(tensor))
        return weakref.ref(tensor)

    gc.disable()
    try:
        held = fails()
        turns.take(lambda: None)  # the thread has let go of the step before
        assert held() is None
    finally:
        gc.enable()


def test_what_a_step_returns_or_raises_is_its_askers():
    turns = Turns()

    with pytest.raises(ZeroDivisionError):
        turns.take(lambda: 1 / 0)
    assert turns.take(lambda: 1) == 1
