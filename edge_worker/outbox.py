"""What waits to be sent, and what was sent but is not yet durable at the cloud.

The training loop offers records; the uplink takes them in order. A record is dropped only once the cloud has
it durably, so that a broken link or a restarted cloud loses nothing. Beyond a bound of memory records lie in
the spool on the disk. When the outbox is full, offering waits, or gives up the oldest batches.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from common.errors import HeadwaterError, SessionError
from common.wire.messages import End, EvaluationPart, Position, Record, Skip
from common.wire.records import record_to_bytes
from edge_worker.spool import Spool
from edge_worker.spool_file import Entry, Kept

log = logging.getLogger(__name__)

# What keeping a record costs beside its bytes; counted, so that the shortest record takes room too.
RECORD_OVERHEAD = 256
# No Skip or End takes more bytes, and no batch as few.
LONGEST_SKIP = 32


@dataclass(slots=True)
class Parcel:
    """One serialised record.

    Attributes:
        kept: where it belongs, and its size.
        data: its bytes; None where they lie in the spool only.
        spooled: whether the spool has it as it is.
    """

    kept: Kept
    data: bytes | None
    spooled: bool

    @property
    def after(self) -> Position:
        """Where the stream stands once it is applied."""
        return self.kept.after

    @property
    def evaluation(self) -> bool:
        """Whether it belongs to an evaluation; such bytes are counted apart."""
        return self.kept.evaluation

    @property
    def droppable(self) -> bool:
        """Whether it is a batch, which a Skip may stand for."""
        return not self.evaluation and self.kept.size > LONGEST_SKIP

    @property
    def room(self) -> int:
        """Bytes that it takes of the outbox."""
        return self.kept.size + RECORD_OVERHEAD


class Outbox:
    """Ordered, bounded, shared by the training, its encoder and the uplink.

    Args:
        limit_bytes: how many bytes of records may wait here; one record always fits.
        memory_bytes: how many of them in memory, the rest in the spool.
        spool: where records outlast this process; None keeps all in memory.
        drop: give up the oldest batches where it is full, rather than wait.

    Attributes:
        changed: notified at every change; the uplink waits on it for its own events too.
    """

    def __init__(
        self, limit_bytes: int, memory_bytes: int = 1 << 62, spool: Spool | None = None, drop: bool = False
    ) -> None:
        self.changed = threading.Condition()
        self._limit = limit_bytes
        self._memory_limit = memory_bytes
        self._spool = spool
        self._drop = drop
        self._parcels: deque[Parcel] = deque()
        self._room = 0  # that all of them take
        self._memory = 0  # bytes of those whose data is here
        self._taken = 0  # how many of `_parcels` the current stream has taken
        self._applied_parcels = 0  # how many of them the cloud has applied, but not durably
        self._unsaved = 0  # room that those take
        self._settled = self._applied = self._end = Position(0)
        self._kept_through = 0  # how many of them are not to be given up, from the oldest on
        self._blocked = False  # an offer waits for room
        self._told_full = False  # told once, as a slow link may have it so all the time
        self._error: HeadwaterError | None = None
        self._leaving = False
        self._complete = False
        self._given_up = 0  # batches, since it was last told how many

    # -------------------------------------------------------------- for the training and its encoder

    def start(self, position: Position, settled: Position) -> None:
        """Set where the edge stands and what the cloud has durably, before anything is offered.

        What the spool has in between is taken over; the rest of it is dropped.
        """
        with self.changed:
            self._end, self._applied, self._settled = position, settled, settled
            if self._spool is not None:
                self._spool.restart(settled, position)
                for kept in self._spool.records:
                    if settled < kept.after <= position:
                        self._append(Parcel(kept, None, spooled=True))
            self.changed.notify_all()

    def offer(self, record: Record) -> float:
        """Add the next record; waits while the outbox is full, unless it may give up batches.

        Returns:
            Seconds that it had to wait.

        Raises:
            HeadwaterError: the uplink has failed for good, for this reason.
            CheckpointError: the record cannot be spooled.
        """
        data = record_to_bytes(record)
        with self.changed:
            kept = Kept(self._end, record.after, isinstance(record, EvaluationPart), len(data))
            parcel = Parcel(kept, data, spooled=False)
            waited_s = self._wait_for_room(parcel.room)
            self.check()
            self._end = record.after
            self._complete = isinstance(record, End)
            wanted, settled = record.after > self._settled, self._settled
            full = self._memory + len(data) > self._memory_limit and not self._free_memory(len(data))
        if wanted and full and self._spool is not None:
            # Not under the lock: the uplink need not wait for the disk.
            self._spool.write([Entry(kept, data)], settled, synced=False)
            parcel.data, parcel.spooled = None, True
        with self.changed:
            if wanted:
                self._append(parcel)
            self.changed.notify_all()
        return waited_s

    def commit(self) -> None:
        """Have all that was offered on the disk before a checkpoint is written that stands on it.

        Raises:
            CheckpointError: the disk is full or gone.
        """
        if self._spool is None:
            return
        with self.changed:
            fresh = [(parcel, parcel.data) for parcel in self._parcels if not parcel.spooled]
            settled = self._settled
        entries = [Entry(parcel.kept, data) for parcel, data in fresh if data is not None]
        self._spool.write(entries, settled, synced=True)
        with self.changed:
            for parcel, _ in fresh:
                parcel.spooled = True

    def drain(self, told: Callable[[], bool]) -> bool:
        """Wait until all that was offered is durable; False if the run is being interrupted before.

        Args:
            told: whether the cloud has told all that it knows; asked again whenever it confirms something.

        Raises:
            HeadwaterError: the uplink has failed for good, for this reason.
        """
        with self.changed:
            self.changed.wait_for(lambda: (self._is_settled() and told()) or self._leaving)
            self._tell_given_up()
            return self._is_settled() and told()

    def _wait_for_room(self, room: int) -> float:
        waited_s = 0.0
        while self._parcels and self._room + room > self._limit and not self._leaving:
            self.check()
            if self._drop and self._give_up_oldest():
                continue
            if not self._told_full:
                log.warning("the spool is full: training waits until the cloud has some of it durably")
                self._told_full = True
            started = time.monotonic()
            self._blocked = True
            self.changed.wait()
            waited_s += time.monotonic() - started
        self._blocked = False
        return waited_s

    def _give_up_oldest(self) -> bool:
        """Let a Skip stand for the oldest batch kept here; False where there is none.

        It may have been applied already: then the Skip goes only to a cloud that lost it again.
        """
        while self._kept_through < len(self._parcels):
            index = self._kept_through
            parcel = self._parcels[index]
            self._kept_through += 1
            if parcel.droppable:
                self._count_given_up(applied=index < self._applied_parcels)
                data = record_to_bytes(Skip(parcel.after.batches - 1))
                freed = parcel.kept.size - len(data)
                self._room -= freed
                self._unsaved -= freed if index < self._applied_parcels else 0
                self._memory += len(data) - (len(parcel.data) if parcel.data is not None else 0)
                kept = Kept(parcel.kept.before, parcel.after, False, len(data))
                self._parcels[index] = Parcel(kept, data, spooled=False)
                return True
        return False

    def _count_given_up(self, applied: bool) -> None:
        """Count a batch, unless the cloud has trained it; the first is told at once, their number later."""
        if applied:
            return
        if not self._given_up:
            log.warning(
                "the spool is full: from here on the oldest batches are given up, as --spool-full drop has it"
            )
        self._given_up += 1

    def _tell_given_up(self) -> None:
        if self._given_up:
            batches = "1 batch was" if self._given_up == 1 else f"{self._given_up} batches were"
            log.warning("%s given up; the cloud lacks what it had not received", batches)
            self._given_up = 0

    def _free_memory(self, wanted: int) -> bool:
        """Let go of the bytes that the spool has too and that were sent; True if so many are free now."""
        for parcel in islice(self._parcels, self._taken):
            if parcel.spooled and parcel.data is not None:
                self._memory -= len(parcel.data)
                parcel.data = None
        return self._memory + wanted <= self._memory_limit

    def _append(self, parcel: Parcel) -> None:
        self._parcels.append(parcel)
        self._room += parcel.room
        self._memory += len(parcel.data) if parcel.data is not None else 0

    # -------------------------------------------------------------- for the uplink

    def take(self) -> Parcel | None:
        """Return the next record to send, or None when all are sent; never waits."""
        with self.changed:
            while self._taken < len(self._parcels):
                parcel = self._parcels[self._taken]
                self._taken += 1
                if parcel.after > self._applied:
                    return parcel
            return None

    def data_of(self, parcel: Parcel) -> bytes:
        """Return a parcel's bytes, from the spool where they are no longer in memory.

        Raises:
            CheckpointError: the spool is damaged.
        """
        data = parcel.data  # whoever offers may let go of it at any time
        if data is not None:
            return data
        assert self._spool is not None  # else all data stays in memory
        return self._spool.read(parcel.after)

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
            self._tell_given_up()
            self._applied = applied
            self._taken = self._applied_parcels = self._unsaved = 0

    def confirm(self, applied: Position, durable: Position) -> None:
        """Take what the cloud says it has; records that it has durably are dropped."""
        with self.changed:
            self._applied = max(self._applied, applied)
            self._settled = max(self._settled, durable)
            while self._applied_parcels < len(self._parcels):
                parcel = self._parcels[self._applied_parcels]
                if parcel.after > applied:
                    break
                self._applied_parcels += 1
                self._unsaved += parcel.room
            while self._parcels and self._parcels[0].after <= durable:
                parcel = self._parcels.popleft()
                self._room -= parcel.room
                self._memory -= len(parcel.data) if parcel.data is not None else 0
                self._unsaved -= parcel.room
                self._applied_parcels -= 1
                self._taken = max(0, self._taken - 1)
                self._kept_through = max(0, self._kept_through - 1)
            self.changed.notify_all()

    def fail(self, error: HeadwaterError) -> None:
        """Let whoever offers or waits know that nothing will be sent any more."""
        with self.changed:
            self._error = error
            self.changed.notify_all()

    # -------------------------------------------------------------- for both

    def leave(self) -> None:
        """Let offers pass and draining end without waiting: the run is being interrupted."""
        with self.changed:
            self._leaving = True
            self.changed.notify_all()

    def check(self) -> None:
        """Raise the uplink's failure, if there is one."""
        if self._error is not None:
            raise self._error

    def _is_settled(self) -> bool:
        self.check()
        return self._settled >= self._end

    @property
    def leaving(self) -> bool:
        """Whether the run is being interrupted."""
        return self._leaving

    @property
    def blocked(self) -> bool:
        """Whether an offer waits for room."""
        return self._blocked

    @property
    def complete(self) -> bool:
        """Whether all records of the run were offered."""
        return self._complete

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
        """Bytes that the records held here take."""
        return self._room

    @property
    def wants_save(self) -> bool:
        """Whether a save at the cloud would free a good part of an outbox that is over half full, or all."""
        if self._blocked and self._parcels and self._applied_parcels == len(self._parcels):
            return True  # the cloud has nothing left to do: a batch may take more than half of the room
        return self._room > self._limit // 2 and self._unsaved > self._limit // 4
