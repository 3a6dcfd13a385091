"""The first message of a call: it takes a thread to wait for it, so nobody waits for long."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

from common.errors import CloudError
from common.units import format_duration

T = TypeVar("T")

# Some slow link's time.
FIRST_MESSAGE_S = 30.0


def first_of(requests: Iterator[T], timeout_s: float) -> T | None:
    """Return the first message, or None where the edge closed its side without any.

    Raises:
        CloudError: none came within `timeout_s`; its caller ends the stream, and the waiting thread with it.
    """
    arrived: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            arrived.put(next(requests, None))
        except BaseException as error:  # it belongs to the caller, if that still waits
            arrived.put(error)

    threading.Thread(target=read, name="first message", daemon=True).start()
    try:
        first = arrived.get(timeout=timeout_s)
    except queue.Empty:
        limit = format_duration(timeout_s)
        raise CloudError(f"no message came for {limit} after the stream was opened") from None
    if isinstance(first, BaseException):
        raise first
    return first
