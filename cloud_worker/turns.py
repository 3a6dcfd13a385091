"""Whose step it is: sessions that share a device take turns, step by step, in the order of asking."""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A lock that goes to whoever has waited longest; a plain one may go to the same thread for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments only
        self._taken = False
        self._waiting: deque[threading.Lock] = (
            deque()
        )  # one for each that waits, released when it is its turn

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()  # it stays taken
            else:
                self._taken = False
