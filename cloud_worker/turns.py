"""Whose step it is: sessions that share a device take turns, step by step, in the order of asking."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Turns:
    """One thread that takes the steps of all sessions.

    Not a lock, as torch's libraries keep for each thread that calls them the buffers of its largest step and,
    where a step is computed by several threads, those: with a thread for each session, memory and threads
    would grow with the number of sessions.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="steps")
        # Started now, so that no step is left in its queue where it cannot be; and a thread has the number of
        # threads that torch was told once it has asked for it.
        self._thread.submit(torch.get_num_threads).result()

    def take(self, step: Callable[[], T]) -> T:
        """Run `step` once all that was asked for before has run; return what it returns."""
        return self._thread.submit(step).result()
