"""How large a chunk is, and how many bytes may be in flight. Pure arithmetic; the caller tells the time.

A chunk takes the link 50 ms, so that the link's owner can interleave; in flight is never more than the
larger of two chunks and what the link delivered in two seconds, so that a slow link's queue stays short.
"""

from collections import deque

from common.errors import WireError
from common.wire.messages import MAX_CHUNK_BYTES

CHUNK_S = 0.05
IN_FLIGHT_S = 2.0
MIN_CHUNK_BYTES = 1 << 10
# Without a known rate: small enough for a slow link, and doubled as soon as more is delivered.
FIRST_CHUNK_BYTES = 64 << 10


class FlowControl:
    """Bytes in flight of one stream.

    Args:
        rate_bps: the link's rate where it is known, bits per second.
        window: the most bytes that may be in flight, whatever the link delivers.
    """

    def __init__(self, rate_bps: float | None, window: int) -> None:
        self._rate_bps = rate_bps
        self._window = window
        self._sent = 0
        self._acknowledged = 0
        self._recent: deque[tuple[float, int]] = deque()  # (time, bytes newly acknowledged)
        self._recent_bytes = 0

    @property
    def in_flight(self) -> int:
        """Bytes sent whose receipt is not confirmed."""
        return self._sent - self._acknowledged

    @property
    def chunk_bytes(self) -> int:
        """The largest chunk to send now."""
        if self._rate_bps is not None:
            wanted = int(self._rate_bps / 8 * CHUNK_S)
        else:
            wanted = max(FIRST_CHUNK_BYTES, int(self._recent_bytes / IN_FLIGHT_S * CHUNK_S))
        return max(MIN_CHUNK_BYTES, min(wanted, MAX_CHUNK_BYTES, self._window // 2))

    @property
    def limit(self) -> int:
        """How many bytes may be in flight now."""
        delivered = self._recent_bytes
        if self._rate_bps is not None:
            delivered = max(delivered, int(self._rate_bps / 8 * IN_FLIGHT_S))
        return min(self._window, max(2 * self.chunk_bytes, delivered))

    def may_send(self, size: int) -> bool:
        """Tell whether a chunk of `size` bytes may be sent now; one always may where none is in flight."""
        return self.in_flight == 0 or self.in_flight + size <= self.limit

    def sent(self, size: int) -> None:
        """Count a chunk as in flight."""
        self._sent += size

    def acknowledged(self, received_bytes: int, now: float) -> int:
        """Take the cloud's count for this stream; return how many bytes are newly confirmed.

        Raises:
            WireError: the cloud confirms what was never sent; the window would be without effect.
        """
        if received_bytes > self._sent:
            raise WireError(f"the cloud confirms {received_bytes} bytes, only {self._sent} were sent")
        new = max(0, received_bytes - self._acknowledged)
        self._acknowledged += new
        self._recent.append((now, new))
        self._recent_bytes += new
        while self._recent and self._recent[0][0] < now - IN_FLIGHT_S:
            self._recent_bytes -= self._recent.popleft()[1]
        return new
