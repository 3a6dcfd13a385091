"""When bytes leave a link of a given rate, and when they arrive after its latency.

Nothing here reads the time or sleeps: callers pass the time in, in seconds on any clock that never runs
backwards. What does sleep takes a `Clock`, so that tests run on a clock of their own.
"""

import collections
import math
import threading
import time
from typing import Generic, Protocol, TypeVar

from common.errors import ConfigError

T = TypeVar("T")


class Clock(Protocol):
    """The time, and a sleep that can be cut short."""

    def now(self) -> float:
        """Seconds since some fixed moment; never runs backwards."""
        ...

    def wait(self, until: float, stop: threading.Event) -> bool:
        """Sleep until the time `until`, or until `stop` is set; returns whether `stop` is set."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since some fixed moment; never runs backwards."""
        return time.monotonic()

    def wait(self, until: float, stop: threading.Event) -> bool:
        """Sleep until the time `until`, or until `stop` is set; returns whether `stop` is set."""
        remaining_s = until - self.now()
        return stop.wait(remaining_s) if remaining_s > 0 else stop.is_set()


class TokenBucket:
    """The schedule of a link that carries one message after the other at a fixed rate.

    The end of each transmission is counted from the end of the one before, not from the moment at which a
    sleeping thread woke up. A sender that always has something to send therefore gets its exact rate, even
    where it wakes up late, as long as it is never later than `burst_s`.

    Args:
        rate_bps: bits per second, > 0; None for a link without a limit.
        burst_s: lateness that is made up for, in seconds. It is also all that an idle sender can save up.
    """

    def __init__(self, rate_bps: float | None, burst_s: float = 0.05) -> None:
        if rate_bps is not None and not (math.isfinite(rate_bps) and rate_bps > 0):
            raise ConfigError(f"a link's rate must be above 0 bit/s, got {rate_bps}; use None for no limit")
        if not burst_s >= 0:
            raise ConfigError(f"a link's burst must be 0 s or more, got {burst_s}")
        self.rate_bps = rate_bps
        self.burst_s = burst_s
        self._next_free: float | None = None
        self._lock = threading.Lock()

    def reserve(self, nbytes: int, now: float, *, idle: bool = False) -> float:
        """Take the link for one message, and say when its last bit will have left.

        Args:
            nbytes: size on the wire in bytes.
            now: the time in seconds.
            idle: the sender knows that it had nothing to send until `now`: it is not late, so nothing is
                made up for, and the transmission starts at `now` or when the link is free.

        Returns:
            The end of the transmission. It lies before `now` where the sender is late by more than the
            message takes; the message may then go at once.
        """
        if self.rate_bps is None:
            return now
        with self._lock:
            earliest = now if idle or self._next_free is None else now - self.burst_s
            start = earliest if self._next_free is None else max(self._next_free, earliest)
            self._next_free = start + 8 * nbytes / self.rate_bps
            return self._next_free


class DelayLine(Generic[T]):
    """Things under way, in order, each with the time at which it arrives.

    Latencies overlap: ten things pushed at once arrive at once, one latency later.
    """

    def __init__(self, latency_s: float) -> None:
        if not (math.isfinite(latency_s) and latency_s >= 0):
            raise ConfigError(f"a link's latency must be 0 s or more, got {latency_s}")
        self.latency_s = latency_s
        self._items: collections.deque[tuple[float, T]] = collections.deque()
        self._last_release = -math.inf

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: T, sent_at: float) -> float:
        """Put an item on its way at `sent_at`; returns its arrival, never before that of an earlier item."""
        self._last_release = max(self._last_release, sent_at + self.latency_s)
        self._items.append((self._last_release, item))
        return self._last_release

    def next_release(self) -> float | None:
        """When the oldest item arrives; None if nothing is under way."""
        return self._items[0][0] if self._items else None

    def pop(self, now: float) -> T | None:
        """Take the oldest item if it has arrived by `now`; None otherwise."""
        if not self._items or self._items[0][0] > now:
            return None
        return self._items.popleft()[1]
