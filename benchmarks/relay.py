"""A TCP relay on loopback: the judge of what really crossed, and a link that can be cut.

It knows nothing of gRPC. It counts connections and TCP payload in both directions, keeps when each piece
passed and when each side hung up, and can limit the rate, add a delay, fall silent, or cut the connections.
What a limited rate cannot carry at once waits here, as in a modem: senders are not held back before 64 MiB.
"""

import bisect
import collections
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from common.link.shaper import SystemClock, TokenBucket

# One read. Small against rate x 50 ms at the rates that are emulated here.
PIECE_BYTES = 16 * 1024
# What may be under way inside one direction of one connection before the relay stops reading.
HELD_BYTES = 64 * 1024 * 1024


class Tally:
    """Bytes that passed in one direction, and when."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timeline: list[tuple[float, int]] = []
        self._total = 0
        self._under_way = self._most_under_way = 0

    def enter(self, nbytes: int) -> None:
        """Count a piece that the relay has taken and not yet passed on."""
        with self._lock:
            self._under_way += nbytes
            self._most_under_way = max(self._most_under_way, self._under_way)

    def take_most_under_way(self) -> int:
        """Return the most bytes that were under way here since this was last asked."""
        with self._lock:
            most, self._most_under_way = self._most_under_way, self._under_way
            return most

    def add(self, nbytes: int) -> None:
        """Count a piece that passes now."""
        with self._lock:
            self._total += nbytes
            self._under_way -= nbytes
            self._timeline.append((time.monotonic(), nbytes))

    def lose(self, nbytes: int) -> None:
        """Count bytes as not under way any more: their connection is gone."""
        with self._lock:
            self._under_way -= nbytes

    @property
    def total(self) -> int:
        """Bytes that have passed so far."""
        with self._lock:
            return self._total

    def timeline(self) -> list[tuple[float, int]]:
        """Each piece that passed: monotonic time in seconds, size in bytes."""
        with self._lock:
            return list(self._timeline)


def rates_bps(
    pieces: Sequence[tuple[float, int]], window_s: float, skip_s: float = 0.0, step_s: float = 0.1
) -> list[float]:
    """Bits per second over every window of `window_s` that lies between the first and the last piece.

    Args:
        pieces: when each one passed, in seconds, and its size in bytes; in order.
        window_s: length of one window in seconds.
        skip_s: seconds after the first piece that no window touches.
        step_s: from the start of one window to the next, in seconds.
    """
    if not pieces:
        return []
    times = [at for at, _ in pieces]
    passed = [0, *itertools.accumulate(nbytes for _, nbytes in pieces)]
    rates = []
    start = times[0] + skip_s
    while start + window_s <= times[-1]:
        low, high = bisect.bisect_left(times, start), bisect.bisect_left(times, start + window_s)
        rates.append(8 * (passed[high] - passed[low]) / window_s)
        start += step_s
    return rates


class Hangup(NamedTuple):
    """One side of a connection has closed it, or half of it."""

    connection: int  # 1 for the first one
    side: str  # "client" or "server"
    at: float  # monotonic seconds


class Relay:
    """Forwards connections to `target`; a context manager that listens from its construction on.

    Args:
        target: host:port to forward to.
        rate_up_bps: limit from client to target in bits per second, all connections together; None for none.
        rate_down_bps: the same from target to client.
        delay_up_s: seconds from a piece's arrival to its departure, from client to target.
        delay_down_s: the same from target to client.

    Attributes:
        up, down: what passed from client to target, and from target to client.
        connections: how many were forwarded so far.
        hangups: which side closed one, and when, in order.
    """

    def __init__(
        self,
        target: str,
        *,
        rate_up_bps: float | None = None,
        rate_down_bps: float | None = None,
        delay_up_s: float = 0.0,
        delay_down_s: float = 0.0,
    ) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.up, self.down = Tally(), Tally()
        self.connections = 0
        self.hangups: list[Hangup] = []
        self._buckets = (TokenBucket(rate_up_bps), TokenBucket(rate_down_bps))
        self._delays = (delay_up_s, delay_down_s)
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._port = 0
        self._listener: socket.socket | None = None
        self.restore()

    @property
    def address(self) -> str:
        """host:port to connect to; it stays the same over `cut` and `restore`."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """Close every connection, and refuse new ones until `restore`."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._connections = self._connections, set()
        if listener is not None:
            _close(listener)
        for connection in connections:
            connection.close()

    def silence(self) -> None:
        """Forward nothing more, but leave connections open and accept new ones, until `restore`."""
        self._flowing.clear()

    def restore(self) -> None:
        """Undo `cut` and `silence`."""
        self._flowing.set()
        with self._lock:
            if self._listener is not None:
                return
            self._listener = socket.create_server(("127.0.0.1", self._port))
            self._port = self._listener.getsockname()[1]
            _start(self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:  # nobody there: the client learns it as a closed connection
                _close(client)
                continue
            connection = _Connection(client, server, self.connections + 1)
            with self._lock:
                if self._listener is not listener:  # cut in the meantime
                    connection.close()
                    return
                self._connections.add(connection)
                self.connections += 1
            self._forward(connection, client, server, 0)
            self._forward(connection, server, client, 1)

    def _forward(
        self, connection: "_Connection", source: socket.socket, sink: socket.socket, way: int
    ) -> None:
        """Start the two threads of one direction: one reads and stamps, one waits and writes."""
        held = _Held(HELD_BYTES)
        tally, bucket, delay_s = (self.up, self.down)[way], self._buckets[way], self._delays[way]
        clock, side = SystemClock(), ("client", "server")[way]

        def read() -> None:
            with contextlib.suppress(OSError):
                while piece := source.recv(PIECE_BYTES):
                    tally.enter(len(piece))
                    finish = max(clock.now(), bucket.reserve(len(piece), clock.now()))
                    if not held.put(piece, finish + delay_s):
                        tally.lose(len(piece))
                        break
            if not connection.closed.is_set():
                self.hangups.append(Hangup(connection.number, side, clock.now()))
            held.put(b"", clock.now() + delay_s)  # the end travels like everything else

        def write() -> None:
            with contextlib.suppress(OSError):
                while True:
                    piece, release = held.get()
                    stopped = clock.wait(release, connection.closed)
                    while not stopped and not self._flowing.wait(0.05):
                        stopped = connection.closed.is_set()
                    if stopped or not piece:
                        tally.lose(len(piece))
                        break
                    # Counted first: whoever has received a piece must find it counted.
                    tally.add(len(piece))
                    sink.sendall(piece)
            tally.lose(held.close())
            connection.end(sink)
            with self._lock:
                if connection.closed.is_set():
                    self._connections.discard(connection)

        _start(read)
        _start(write)


class _Connection:
    """The two sockets of one forwarded connection."""

    def __init__(self, client: socket.socket, server: socket.socket, number: int) -> None:
        self.number = number
        self._sockets = (client, server)
        self._ended: set[socket.socket] = set()
        self.closed = threading.Event()
        for end in self._sockets:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def end(self, sink: socket.socket) -> None:
        """One direction has ended: tell the receiver; close once both have."""
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        self._ended.add(sink)
        if len(self._ended) == len(self._sockets):
            self.close()

    def close(self) -> None:
        """Close both sides now; what is under way is lost."""
        self.closed.set()
        for end in self._sockets:
            _close(end)


class _Held:
    """Pieces between the reader and the writer of one direction; bounded."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._pieces: collections.deque[tuple[bytes, float]] = collections.deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, piece: bytes, release: float) -> bool:
        """Append once there is room; False if the writer has gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._bytes < self._limit)
            if not self._closed:
                self._pieces.append((piece, release))
                self._bytes += len(piece)
                self._changed.notify_all()
            return not self._closed

    def get(self) -> tuple[bytes, float]:
        """Take the oldest piece and its release time; waits for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces)
            piece, release = self._pieces.popleft()
            self._bytes -= len(piece)
            self._changed.notify_all()
            return piece, release

    def close(self) -> int:
        """The writer has gone: let the reader go too; returns the bytes left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._bytes


def _start(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, name="relay", daemon=True).start()


def _close(end: socket.socket) -> None:
    """Close a socket that other threads may be blocked on; shutdown is what wakes them."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
