"""How a run is asked to end: by SIGINT or SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether a signal has asked the run to end, and which.

    Attributes:
        event: set once it has.
        number: the signal's; 0 before.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number = 0
        self._calls: list[Callable[[], None]] = []

    def tell(self, call: Callable[[], None]) -> None:
        """Have `call` called when the signal comes, or now if it has come."""
        self._calls.append(call)
        if self.event.is_set():
            call()

    def ask(self, number: int) -> None:
        """Take a signal."""
        self.number = number
        self.event.set()
        for call in self._calls:
            call()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """End the run after the batch under way on the first SIGINT or SIGTERM; at once on the second."""
    stop = Stop()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        ignored = before[signal.SIGTERM] is signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else signal.SIG_DFL)
        stop.ask(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, handle)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
