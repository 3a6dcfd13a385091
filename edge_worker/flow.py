"""How large a chunk is, and how many bytes may be in flight. Pure arithmetic; the caller tells the time.

A chunk takes the link 50 ms, so that the link's owner can interleave; in flight is never more than the
larger of two chunks and what the link delivers in two seconds, so that a slow link's queue stays short and
a ping gets through it.

What an unknown link delivers is the best of the last seconds' samples. A sample is what was confirmed
between a chunk's departure and its confirmation, as in BBR (Cardwell et al., ACM Queue 14(5), 2016): pauses
of the sender are not held against the link.
"""

from collections import deque

from common.errors import WireError
from common.wire.messages import MAX_CHUNK_BYTES

CHUNK_S = 0.05
IN_FLIGHT_S = 2.0
# How long a sample counts.
MEMORY_S = 10.0
MIN_CHUNK_BYTES = 1 << 10
# Before anything was delivered: two of these take a link of 64 kbit/s four seconds.
FIRST_CHUNK_BYTES = 16 << 10


class FlowControl:
    """Bytes in flight of one stream.

    Args:
        rate_bps: the link's rate where it is known, bits per second.
        window: the most bytes that may be in flight, whatever the link delivers.
    """

    def __init__(self, rate_bps: float | None, window: int) -> None:
        self._known = rate_bps / 8 if rate_bps is not None else None
        self._window = window
        self._sent = 0
        self._acknowledged = 0
        # Of each chunk in flight: where it ends, what was confirmed when it left, when that was, and whether
        # the link was kept busy.
        self._chunks: deque[tuple[int, int, float, bool]] = deque()
        self._samples: deque[tuple[float, float]] = deque()  # (time, bytes per second), falling rates

    @property
    def in_flight(self) -> int:
        """Bytes sent whose receipt is not confirmed."""
        return self._sent - self._acknowledged

    @property
    def goodput(self) -> float | None:
        """What the link delivers, in bytes per second; None before anything is known of it."""
        measured = self._samples[0][1] if self._samples else None
        if self._known is None:
            return measured
        return max(self._known, measured or 0.0)

    @property
    def chunk_bytes(self) -> int:
        """The largest chunk to send now."""
        rate = self._known if self._known is not None else self.goodput
        wanted = FIRST_CHUNK_BYTES if rate is None else int(rate * CHUNK_S)
        return max(MIN_CHUNK_BYTES, min(wanted, MAX_CHUNK_BYTES, self._window // 2))

    @property
    def limit(self) -> int:
        """How many bytes may be in flight now."""
        return min(self._window, max(2 * self.chunk_bytes, int((self.goodput or 0.0) * IN_FLIGHT_S)))

    def may_send(self, size: int) -> bool:
        """Tell whether a chunk of `size` bytes may be sent now; one always may where none is in flight."""
        return self.in_flight == 0 or self.in_flight + size <= self.limit

    def sent(self, size: int, now: float) -> None:
        """Count a chunk as in flight."""
        self._sent += size
        busy = self.in_flight >= self.limit // 2
        self._chunks.append((self._sent, self._acknowledged, now, busy))

    def acknowledged(self, received_bytes: int, now: float) -> int:
        """Take the cloud's count for this stream; return how many bytes are newly confirmed.

        Raises:
            WireError: the cloud confirms what was never sent; the window would be without effect.
        """
        if received_bytes > self._sent:
            raise WireError(f"the cloud confirms {received_bytes} bytes, only {self._sent} were sent")
        new = max(0, received_bytes - self._acknowledged)
        self._acknowledged += new
        while self._chunks and self._chunks[0][0] <= self._acknowledged:
            _, before, left_at, busy = self._chunks.popleft()
            if now > left_at:
                self._learn((self._acknowledged - before) / (now - left_at), now, busy)
        return new

    def _learn(self, rate: float, now: float, busy: bool) -> None:
        """Take a sample; one from a sender that left the link idle can only say that it is faster."""
        if not busy and self._samples and rate <= self._samples[0][1]:
            return
        while self._samples and self._samples[-1][1] <= rate:
            self._samples.pop()
        self._samples.append((now, rate))
        while self._samples[0][0] < now - MEMORY_S:
            self._samples.popleft()
