"""The turns that sessions on one device take."""

import threading

import pytest

from benchmarks.processes import wait_for
from cloud_worker.turns import Turns

PATIENCE_S = 60.0


def test_whoever_asked_first_is_next_even_if_the_last_one_asks_again_at_once():
    """With a plain lock the thread that has it mostly gets it again."""
    turns, order, threads = Turns(), [], []

    def step(name):
        with turns:
            order.append(name)

    def step_twice(waiting):
        with turns:
            order.append("first")
            waiting.wait(PATIENCE_S)
        step("first")

    waiting = threading.Event()
    threads.append(threading.Thread(target=step_twice, args=(waiting,)))
    threads[0].start()
    wait_for(lambda: bool(order), "the first step", PATIENCE_S)
    for number, name in enumerate("abc", start=1):
        threads.append(threading.Thread(target=step, args=(name,)))
        threads[-1].start()
        wait_for(lambda number=number: len(turns._waiting) == number, "its place in the queue", PATIENCE_S)
    waiting.set()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert order == ["first", "a", "b", "c", "first"]


def test_a_step_that_fails_hands_the_turn_on():
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns:
        raise ZeroDivisionError
    with turns:
        pass


def test_never_two_at_once():
    turns, inside, most = Turns(), 0, []

    def work():
        nonlocal inside
        for _ in range(200):
            with turns:
                inside += 1
                most.append(inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert len(most) == 1600
    assert max(most) == 1
