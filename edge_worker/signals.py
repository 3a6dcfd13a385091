"""How a run is asked to end: by SIGINT or SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether a signal has asked the run to end, and which."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number = 0


@contextmanager
def stop_on_signals(leave: Callable[[], None]) -> Iterator[Stop]:
    """End the run after the batch under way on the first SIGINT or SIGTERM; at once on the second.

    Args:
        leave: called at the first, so that nobody waits any more.
    """
    stop = Stop()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: object) -> None:
        stop.number = number
        stop.event.set()
        leave()
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, handle)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
