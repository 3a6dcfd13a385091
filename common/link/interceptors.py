"""A gRPC client interceptor that makes a channel's streams behave as if over a slow, distant link.

Each direction is one `_Way`: it draws a message, holds the emulated link while the message is transmitted,
and puts it on a delay line. Upward, gRPC takes messages off that line; downward, the caller does.

    caller's iterator -> pump thread: bucket -> line -> gRPC's own thread -> network
    caller's loop     <- line <- reader thread: bucket <- gRPC <- network
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from common.link.framing import wire_bytes
from common.link.shaper import Clock, DelayLine, SystemClock, TokenBucket

# Called with the message, its bytes on the wire, and the seconds in which it occupied the emulated link.
Observer = Callable[[Any, int, float], None]

# A draw that takes longer found the link with nothing to carry: the transmission starts after it. A shorter
# one is the sender's own delay, which the bucket makes up for. A ready message takes some 50 us to draw, and
# some milliseconds where the machine is busy.
IDLE_S = 0.01
# The most that one direction of one call holds between its link and its taker. Only a caller that leaves its
# replies lying, or a long fat link, ever gets there; then the link waits.
HELD_BYTES = 64 * 1024 * 1024


class LinkInterceptor(grpc.StreamStreamClientInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """Shapes every bidirectional stream of a channel; all of them share one link.

    At most one message per direction is being transmitted; the next is drawn from the caller's iterator only
    after that. So what waits, waits with the caller. gRPC draws ahead of a slow server even so: a caller must
    bound what it has in flight by what the server confirms.

    Without any rate or latency nothing is shaped and no thread is added: messages are counted as they pass.
    With one, a stream has a daemon thread per shaped direction, which ends when the call does. A pump that
    waits in the caller's iterator ends when the iterator returns, so the iterator must end with the call.

    Args:
        rate_up_bps: from caller to server in bits per second of TCP payload; None for no limit.
        rate_down_bps: the same from server to caller.
        latency_s: one-way, in each direction, in seconds.
        clock: the time, and how to sleep; tests bring their own.
        on_sent: called with each request when its transmission ends, by the thread that transmits it. The
            third argument is timed on the clock from the start to the end of the transmission, never computed
            from the rate. Without `rate_up_bps` it is 0: nothing here knows how long the network took.
        on_received: the same for each reply, when its transmission ends, before its latency.
    """

    def __init__(
        self,
        rate_up_bps: float | None,
        rate_down_bps: float | None,
        latency_s: float,
        clock: Clock | None = None,
        on_sent: Observer | None = None,
        on_received: Observer | None = None,
    ) -> None:
        clock = clock or SystemClock()
        DelayLine[object](latency_s)  # ConfigError now rather than at the first call
        self._up = _Link(TokenBucket(rate_up_bps), latency_s, clock, on_sent)
        self._down = _Link(TokenBucket(rate_down_bps), latency_s, clock, on_received)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Iterator[Any]
    ) -> Any:
        """Start the call with shaped requests; returns it with shaped replies."""
        if not self._up.shapes:
            call = continuation(client_call_details, _Counted(request_iterator, self._up))
        else:
            way = _Way(self._up)
            call = continuation(client_call_details, way)
            if not call.add_callback(way.stop):  # it has ended already
                way.stop()
            way.start(request_iterator, "link-up")
        return _ShapedCall(call, self._down)


@dataclass(frozen=True, slots=True)
class _Link:
    """One direction of the link, shared by all calls of the channel."""

    bucket: TokenBucket
    latency_s: float
    clock: Clock
    observer: Observer | None

    @property
    def shapes(self) -> bool:
        return self.bucket.rate_bps is not None or self.latency_s > 0

    def observe(self, message: Any, on_wire: int, busy_s: float) -> None:
        if self.observer is not None:
            self.observer(message, on_wire, busy_s)


class _Counted:
    """An iterator that reports what passes, and shapes nothing."""

    def __init__(self, messages: Iterator[Any], link: _Link) -> None:
        self._messages = iter(messages)
        self._link = link

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        message = next(self._messages)
        self._link.observe(message, _size_on_wire(message), 0.0)
        return message


class _Way:
    """One direction of one call: an iterator over messages that arrive when the link lets them."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        # Items are (message, bytes on the wire), or the exception that ends the stream.
        self._line: DelayLine[tuple[Any, int] | BaseException] = DelayLine(link.latency_s)
        self._held_bytes = 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    def start(self, messages: Iterator[Any], name: str) -> None:
        """Let a thread of its own carry `messages` over the link."""
        threading.Thread(target=self._carry_all, args=(messages,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Drop what is under way and end the thread; whoever iterates is told that the stream has ended."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Wait for the next message to arrive; raises what the source raised, in its turn."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._line) or self._stopped.is_set())
            release = self._line.next_release()
        # Nothing overtakes the oldest item, so there is no need to look again while sleeping.
        if release is None or self._link.clock.wait(release, self._stopped):
            raise StopIteration
        with self._changed:
            item = self._line.pop(release)
            if isinstance(item, tuple):
                self._held_bytes -= item[1]
                self._changed.notify_all()
                return item[0]
        self._stopped.set()  # the end: whoever asks again gets it again
        raise StopIteration if item is None else item

    def _carry_all(self, messages: Iterator[Any]) -> None:
        """Carry every message, then the end of the stream, be it regular or an exception."""
        end: BaseException = StopIteration()
        try:
            source = iter(messages)
            while not self._stopped.is_set() and self._carry_next(source):
                pass
        except BaseException as error:  # it belongs to whoever iterates, in its turn
            end = error
        with self._changed:
            self._line.push(end, self._link.clock.now())
            self._changed.notify_all()

    def _carry_next(self, source: Iterator[Any]) -> bool:
        """Draw one message, hold the link while it is transmitted, send it on; False if there is none."""
        clock = self._link.clock
        asked = clock.now()
        try:
            message = next(source)
        except StopIteration:
            return False
        drawn = clock.now()
        idle = drawn - asked > IDLE_S
        on_wire = _size_on_wire(message)
        finish = self._link.bucket.reserve(on_wire, drawn, idle=idle)
        if clock.wait(finish, self._stopped):
            return False
        sent = clock.now()
        limited = self._link.bucket.rate_bps is not None
        self._link.observe(message, on_wire, sent - (drawn if idle else asked) if limited else 0.0)
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes <= HELD_BYTES or self._stopped.is_set())
            self._held_bytes += on_wire
            # From the scheduled end where that is later: a clock may wake a sleeper a little early.
            self._line.push((message, on_wire), max(sent, finish))
            self._changed.notify_all()
        return True


class _ShapedCall:
    """A call whose replies come over the link; all else is the call's own.

    Callbacks, `code()` and `is_active()` follow the real call, which may be ahead of the replies. A status
    that is not OK is raised after the replies that came before it.
    """

    def __init__(self, call: Any, link: _Link) -> None:
        self._call = call
        self._way = _Way(link) if link.shapes else None
        if self._way is None:
            self._replies: Iterator[Any] = _Counted(call, link)
        else:
            self._replies = self._way
            # The thread knows the call and its way, but not this object: it must not keep it alive.
            self._way.start(call, "link-down")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._replies)
        except StopIteration:
            # Also after cancel(): the call itself knows how it ended, and raises it if that was not well.
            if self._way is not None and self._call.code() is not grpc.StatusCode.OK:
                for _ in self._call:  # a reply that nobody shaped is dropped like those under way
                    pass
            raise

    def cancel(self) -> bool:
        """End the call now; replies under way are dropped."""
        cancelled = bool(self._call.cancel())
        if self._way is not None:
            self._way.stop()
        return cancelled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __del__(self) -> None:
        # gRPC cancels a call that nobody holds any more; the reader thread would hold it forever.
        if getattr(self, "_way", None) is not None:
            with contextlib.suppress(Exception):
                self.cancel()


def _size_on_wire(message: Any) -> int:
    """Bytes that a protobuf message, or a message that is bytes already, takes on the wire."""
    return wire_bytes(len(message) if isinstance(message, (bytes, bytearray)) else message.ByteSize())
