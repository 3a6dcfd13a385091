"""What waits to be sent, and what was sent but is not yet durable at the cloud.

The training loop offers records; the uplink takes them in order. A record is dropped only once the cloud has
it durably, so that a broken link or a restarted cloud loses nothing. When the outbox is full, offering
waits.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import HeadwaterError, SessionError
from common.wire.convert import record_to_bytes
from common.wire.messages import EvaluationPart, Position, Record


@dataclass(frozen=True, slots=True)
class Parcel:
    """One serialised record.

    Attributes:
        after: where the stream stands once it is applied.
        data: its bytes.
        evaluation: whether it belongs to an evaluation; such bytes are counted apart.
    """

    after: Position
    data: bytes
    evaluation: bool


class Outbox:
    """Ordered, bounded, shared by the training thread and the uplink.

    Args:
        limit_bytes: how many bytes of records may wait here; one record always fits.

    Attributes:
        changed: notified at every change; the uplink waits on it for its own events too.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.changed = threading.Condition()
        self._limit = limit_bytes
        self._parcels: deque[Parcel] = deque()
        self._bytes = 0
        self._taken = 0  # how many of `_parcels` the current stream has taken
        self._applied_parcels = 0  # how many of them the cloud has applied, but not durably
        self._unsaved_bytes = 0  # of those
        self._settled = self._applied = self._end = Position(0)
        self._error: HeadwaterError | None = None
        self._leaving = False

    def start(self, position: Position, applied: Position, durable: Position) -> None:
        """Set where the edge stands, and where the cloud does, before anything is offered."""
        with self.changed:
            self._end, self._applied, self._settled = position, applied, durable
            self.changed.notify_all()

    def offer(self, record: Record) -> None:
        """Add the next record; waits while the outbox is full.

        Raises:
            HeadwaterError: the uplink has failed for good, for this reason.
        """
        parcel = Parcel(record.after, record_to_bytes(record), isinstance(record, EvaluationPart))
        with self.changed:
            while self._parcels and self._bytes + len(parcel.data) > self._limit and not self._leaving:
                self.check()
                self.changed.wait()
            self.check()
            self._end = parcel.after
            if parcel.after > self._settled:
                self._parcels.append(parcel)
                self._bytes += len(parcel.data)
            self.changed.notify_all()

    def take(self) -> Parcel | None:
        """Return the next record to send, or None when all are sent; never waits."""
        with self.changed:
            while self._taken < len(self._parcels):
                parcel = self._parcels[self._taken]
                self._taken += 1
                if parcel.after > self._applied:
                    return parcel
            return None

    def rewind(self, applied: Position) -> None:
        """Start over for a new stream, from where the cloud stands.

        Raises:
            SessionError: the cloud lacks records that are no longer here.
        """
        with self.changed:
            if applied < self._settled:
                raise SessionError(
                    f"the cloud stands at batch {applied.batches}, but had confirmed to have batch "
                    f"{self._settled.batches} durably; restore its run directory, "
                    "or start with a new --run-dir"
                )
            self._applied = applied
            self._taken = self._applied_parcels = self._unsaved_bytes = 0

    def confirm(self, applied: Position, durable: Position) -> None:
        """Take what the cloud says it has; records that it has durably are dropped."""
        with self.changed:
            self._settled = max(self._settled, durable)
            while self._applied_parcels < len(self._parcels):
                parcel = self._parcels[self._applied_parcels]
                if parcel.after > applied:
                    break
                self._applied_parcels += 1
                self._unsaved_bytes += len(parcel.data)
            while self._parcels and self._parcels[0].after <= durable:
                size = len(self._parcels.popleft().data)
                self._bytes -= size
                self._unsaved_bytes -= size
                self._applied_parcels -= 1
                self._taken = max(0, self._taken - 1)
            self.changed.notify_all()

    def wait_settled(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was offered is durable; False if that takes longer than `timeout_s`.

        Raises:
            HeadwaterError: the uplink has failed for good, for this reason.
        """
        with self.changed:
            return self.changed.wait_for(self._is_settled, timeout_s)

    def drain(self, told: Callable[[], bool]) -> bool:
        """Wait until all that was offered is durable; False if the run is being interrupted before.

        Args:
            told: whether the cloud has told all that it knows; asked again whenever it confirms something.

        Raises:
            HeadwaterError: the uplink has failed for good, for this reason.
        """
        with self.changed:
            self.changed.wait_for(lambda: (self._is_settled() and told()) or self._leaving)
            return self._is_settled() and told()

    def _is_settled(self) -> bool:
        self.check()
        return self._settled >= self._end

    def fail(self, error: HeadwaterError) -> None:
        """Let whoever offers or waits know that nothing will be sent any more."""
        with self.changed:
            self._error = error
            self.changed.notify_all()

    def leave(self) -> None:
        """Let offers pass and draining end without waiting: the run is being interrupted."""
        with self.changed:
            self._leaving = True
            self.changed.notify_all()

    def check(self) -> None:
        """Raise the uplink's failure, if there is one."""
        if self._error is not None:
            raise self._error

    @property
    def leaving(self) -> bool:
        """Whether the run is being interrupted."""
        return self._leaving

    @property
    def end(self) -> Position:
        """Where the stream stands after all that was offered."""
        return self._end

    @property
    def settled(self) -> Position:
        """All before this is durable at the cloud."""
        return self._settled

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records held here."""
        return self._bytes

    @property
    def wants_save(self) -> bool:
        """Whether it is over half full, and a save at the cloud would free a good part of it."""
        return self._bytes > self._limit // 2 and self._unsaved_bytes > self._limit // 4
