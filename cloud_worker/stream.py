"""One open stream: a reader takes chunks, a preparer decodes the next record, a trainer applies it.

A received chunk is acknowledged as soon as it is taken, by the caller's thread, and taken only while the
records that wait to be applied stay under a bound: a slow back fills the edge's window, and the edge's outbox
after it. One record is prepared while the one before it is applied.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import grpc

from cloud_worker.ahead import Ready
from cloud_worker.limits import Limits
from cloud_worker.session import Session
from common.errors import CloudError, HeadwaterError, WireError
from common.units import format_duration
from common.wire.messages import Ack, Chunk, Hello, Note, Request
from common.wire.reassembly import Reassembly, chunks_of
from common.wire.records import record_from_bytes

HEARTBEAT_S = 5.0
# What a waiting record takes beside its bytes: the shortest has two, and there may be many.
RECORD_OVERHEAD_BYTES = 128
# Small, so that an edge behind a slow link sees that something comes.
GRADIENT_CHUNK_BYTES = 64 << 10


class Requests(Protocol):
    """The edge's messages after Hello, parsed."""

    def __next__(self) -> Request:
        """Return the next one; StopIteration when the edge has closed its side."""


class TrainStream:
    """Serves one session until the edge closes the stream, a newer one takes over, or something fails."""

    def __init__(self, session: Session, hello: Hello, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._changed = threading.Condition()  # its lock may be taken again by who has it
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._received_bytes = 0
        self._next: Ready | HeadwaterError | None = None  # prepared, or why what came is no record
        self._under_way = 0  # records that no longer wait, and are not yet applied
        self._quiet_since = time.monotonic()  # nothing has come since, and nothing was being applied
        self._news = True
        self._reading = True  # the edge may still send
        self._training = True  # records may still be applied
        self._error: HeadwaterError | None = None
        self._failure: BaseException | None = None  # a bug, not an expected failure
        self._losses_told = hello.losses_from
        self._results_told = 0
        self._gradients_told = hello.gradients_from

    def serve(self, requests: Requests) -> Iterator[Ack | Chunk]:
        """Yield acks and gradients until the stream is over; raises what ended it, if it was an error."""
        threads = [
            threading.Thread(target=self._guarded, args=(self._read, requests), daemon=True),
            threading.Thread(target=self._guarded, args=(self._prepare_all,), daemon=True),
            threading.Thread(target=self._guarded, args=(self._apply_all,), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            while self._wait_for_news():
                yield from self._tell_all()
        finally:
            self._stop()
            for thread in threads[1:]:
                if thread.ident is not None:
                    thread.join()  # the records under way
            self._session.detach(self)
        if self._failure is not None:
            raise self._failure
        if self._error is not None:
            raise self._error
        yield from self._tell_all()

    def end(self, error: HeadwaterError) -> None:
        """End the stream with this error, as soon as the record under way is done."""
        with self._changed:
            self._error = self._error or error
            self._stop()

    # -------------------------------------------------------------- the caller's thread

    def _wait_for_news(self) -> bool:
        """Wait for something to tell; False once the stream is over."""
        with self._changed:
            heartbeat_s = min(HEARTBEAT_S, self._limits.idle_timeout)
            self._changed.wait_for(lambda: self._news or not self._training, heartbeat_s)
            self._news = False
            self._end_if_idle()
            return self._training

    def _end_if_idle(self) -> None:
        """End a stream on which nothing comes; an edge that waits for the cloud is not idle."""
        now = time.monotonic()
        if self._waiting or self._under_way:
            self._quiet_since = now
        if now - self._quiet_since > self._limits.idle_timeout:
            limit = format_duration(self._limits.idle_timeout)
            self.end(
                CloudError(f"nothing came for {limit}; what came before is saved: connect again to go on")
            )

    def _tell_all(self) -> Iterator[Ack | Chunk]:
        ack = self._ack()
        yield ack  # first of all: a gradient is of a batch that was said to be applied
        while self._gradients_told < self._session.gradients_through(ack.applied):
            for chunk in chunks_of(self._session.gradient(self._gradients_told), GRADIENT_CHUNK_BYTES):
                yield chunk
                self._quiet_since = time.monotonic()  # the edge waits for what comes down
            self._gradients_told += 1

    def _ack(self) -> Ack:
        ack = self._session.ack(self._received_bytes, self._losses_told, self._results_told)
        self._losses_told = ack.first_loss + len(ack.losses)
        self._results_told += len(ack.results)
        return ack

    def _stop(self) -> None:
        with self._changed:
            self._reading = self._training = False
            if isinstance(self._next, Ready):
                self._next.release()
            self._next = None
            self._changed.notify_all()

    # -------------------------------------------------------------- the reader

    def _read(self, requests: Requests) -> None:
        reassembly = Reassembly(self._session.max_record_bytes)
        while self._read_one(requests, reassembly):
            pass
        with self._changed:
            self._reading = False
            self._changed.notify_all()

    # One of each loop is a function of its own: a thread that waits holds nothing of what came last.

    def _read_one(self, requests: Requests, reassembly: Reassembly) -> bool:
        try:
            request = next(requests)
        except (StopIteration, grpc.RpcError):  # closed by the edge, or broken off
            return False
        if isinstance(request, Hello):
            raise WireError("Hello may come only once, as the first message of a stream")
        if isinstance(request, Note):
            self._session.note(request.losses_from, request.save, self)
            self._tell()
            return True
        return self._take(request, reassembly)

    def _take(self, chunk: Chunk, reassembly: Reassembly) -> bool:
        """Take one chunk once there is room; False when the stream is over."""
        record = reassembly.add(chunk)
        with self._changed:
            if record is not None:
                size = len(record) + RECORD_OVERHEAD_BYTES
                # One record always fits, however large it is.
                while self._waiting and self._waiting_bytes + size > self._limits.window and self._reading:
                    self._changed.wait()
                self._waiting.append(record)
                self._waiting_bytes += size
            self._received_bytes += len(chunk.data)
            self._quiet_since = time.monotonic()
            self._news = True
            self._changed.notify_all()
            return self._reading

    # -------------------------------------------------------------- the preparer

    def _prepare_all(self) -> None:
        while self._prepare_one():
            pass

    def _prepare_one(self) -> bool:
        data = self._next_record()
        if data is None:
            return False
        ready: Ready | HeadwaterError
        try:
            ready = self._session.prepare(record_from_bytes(data, self._session.run))
        except HeadwaterError as error:  # for the trainer: what came before is applied first
            ready = error
        with self._changed:
            if self._training:
                self._next = ready
            elif isinstance(ready, Ready):
                ready.release()
            self._changed.notify_all()
        return True

    def _next_record(self) -> bytes | None:
        """Wait for a record, and for the one before it to be under way; None once none will come."""
        with self._changed:
            while self._training and (self._next is not None or (self._reading and not self._waiting)):
                self._changed.wait()
            if not self._training or not self._waiting:
                return None
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data) + RECORD_OVERHEAD_BYTES
            self._under_way += 1
            self._changed.notify_all()
            return data

    # -------------------------------------------------------------- the trainer

    def _apply_all(self) -> None:
        while self._apply_one():
            self._tell()
        self._stop()

    def _apply_one(self) -> bool:
        ready = self._next_ready()
        if ready is None:
            return False
        try:
            self._session.apply(ready, self)
        finally:
            ready.release()
        with self._changed:
            self._under_way -= 1
            self._quiet_since = time.monotonic()
        return True

    def _next_ready(self) -> Ready | None:
        """Wait for a prepared record; None once none will come."""
        with self._changed:
            while (
                self._training and self._next is None and (self._reading or self._waiting or self._under_way)
            ):
                self._changed.wait()
            if not self._training or self._next is None:
                return None
            ready, self._next = self._next, None
            self._changed.notify_all()
        if isinstance(ready, HeadwaterError):
            raise ready
        return ready

    # -------------------------------------------------------------- both

    def _tell(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _guarded(self, work: object, *arguments: object) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except HeadwaterError as error:
            self.end(error)
        except BaseException as failure:
            self._failure = failure
            self._stop()
