"""What one stream sends: Hello, then notes and records in chunks, no more of them than may be in flight."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import HeadwaterError
from common.link.framing import STREAM_OPEN_BYTES
from common.link.interceptors import LinkInterceptor
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.messages import Ack, Chunk, Hello, Note
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters
from edge_worker.flow import FlowControl
from edge_worker.outbox import Outbox


class Sender:
    """The requests of one stream, and the bytes of it that are in flight.

    Args:
        config: the link, and the window.
        outbox: what to send.
        counters: where bytes and busy times are counted.
        closing: whether the run is over, so that only what is under way is to be sent.
        take_note: returns the Note to send next, once; None where there is none.

    Attributes:
        welcomed: to be set when records may follow Hello.
        link: the interceptor that shapes the call and counts its bytes.
    """

    def __init__(
        self,
        config: TrainConfig,
        outbox: Outbox,
        counters: Counters,
        closing: Callable[[], bool],
        take_note: Callable[[], Note | None],
    ) -> None:
        self.welcomed = threading.Event()
        self.link = LinkInterceptor(
            config.link_rate,
            config.link_rate_down,
            config.link_latency or 0.0,
            on_sent=self._on_sent,
            on_received=lambda _, size, busy_s: counters.add(bytes_down=size, link_down_busy_s=busy_s),
        )
        self._shaped = config.link_rate is not None
        self._outbox = outbox
        self._changed = outbox.changed
        self._counters = counters
        self._closing = closing
        self._take_note = take_note
        self._flow = FlowControl(config.link_rate, config.window)
        self._stopped = False
        self._kinds: deque[bool] = deque()  # of the messages handed to the link: is it of an evaluation
        self._in_flight: deque[tuple[int, bool]] = deque()  # (bytes, is it of an evaluation), unconfirmed
        self._since = time.monotonic()
        self._record, self._offset = b"", 0  # what is being sent, and how much of it was
        self._evaluation = False  # whether it belongs to an evaluation
        self._per_epoch = 0

    def requests(self, hello: Hello) -> Iterator[pb.TrainRequest]:
        """Yield Hello, then notes and chunks as they come and as the window allows."""
        self._per_epoch = hello.run.batches_per_epoch
        self._counters.add(bytes_up=STREAM_OPEN_BYTES)
        self._kinds.append(False)
        yield convert.request_to_proto(hello)
        self.welcomed.wait()
        try:
            while (message := self._wait_for_next()) is not None:
                yield convert.request_to_proto(message)
        except HeadwaterError as error:  # gRPC would tell the cloud and nobody here
            self._outbox.fail(error)

    def _wait_for_next(self) -> Chunk | Note | None:
        """Return what to send next, once it may be sent; None at the end."""
        with self._changed:
            message = self._next()
            while message is None:
                if self._stopped or (self._closing() and not self._record):
                    return None
                self._changed.wait()
                message = self._next()
            if isinstance(message, Chunk):
                self._count_in_flight(len(message.data))
            self._kinds.append(self._evaluation)
            return message

    def _next(self) -> Chunk | Note | None:
        """Return what may be sent now, or None."""
        if self._stopped:
            return None
        if (note := self._take_note()) is not None:
            return note
        if not self._record and not self._closing() and (parcel := self._outbox.take()) is not None:
            self._evaluation = parcel.evaluation
            # An evaluation, and a batch or the end, come after so many epochs.
            self._counters.note_sent((parcel.after.batches - (not parcel.evaluation)) // self._per_epoch)
            self._record, self._offset = self._outbox.data_of(parcel), 0
        size = min(len(self._record) - self._offset, self._flow.chunk_bytes)
        if not self._record or not self._flow.may_send(size):
            return None
        chunk = Chunk(len(self._record), self._offset, self._record[self._offset : self._offset + size])
        self._offset += size
        if self._offset == len(self._record):
            self._record = b""
        return chunk

    def acknowledged(self, ack: Ack) -> None:
        """Take the cloud's count of received bytes."""
        with self._changed:
            now = time.monotonic()
            self._count_unshaped_busy(now)
            confirmed = self._flow.acknowledged(ack.received_bytes, now)
            while confirmed and self._in_flight:
                size, evaluation = self._in_flight.popleft()
                if not evaluation:
                    self._counters.add(delivered_bytes=min(size, confirmed))
                if size > confirmed:
                    self._in_flight.appendleft((size - confirmed, evaluation))
                confirmed -= min(size, confirmed)

    def stop(self) -> None:
        """Let the request iterator end."""
        self.welcomed.set()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _count_in_flight(self, size: int) -> None:
        now = time.monotonic()
        self._count_unshaped_busy(now)
        self._flow.sent(size, now)
        self._in_flight.append((size, self._evaluation))

    def _count_unshaped_busy(self, now: float) -> None:
        """On a link that is not emulated, busy means that bytes are in flight."""
        if not self._shaped and self._in_flight and not self._in_flight[0][1]:
            self._counters.add(link_busy_s=now - self._since)
        self._since = now

    def _on_sent(self, _: Any, wire_bytes: int, busy_s: float) -> None:
        if self._kinds.popleft():
            self._counters.add(eval_bytes_up=wire_bytes)
        else:
            self._counters.add(bytes_up=wire_bytes, link_busy_s=busy_s)
