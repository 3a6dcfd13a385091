"""Records on the edge's disk: an embedded database, SQLite with a write-ahead log, in one file.

Everything up to `start` is durable at the cloud; the records after it follow each other without a gap, each
with its checksum. A write is one transaction. Only the one that goes with a checkpoint waits for the disk: a
killed process loses nothing that was written, a power cut nothing that the last checkpoint stands on.
"""

import logging
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.durable import sync_directory
from common.errors import CheckpointError
from common.wire.messages import Position

log = logging.getLogger(__name__)

# The write-ahead log is copied back, which waits for the disk, after this many pages of 4 KiB.
_PAGES_BETWEEN_SYNCS = 16_384

_TABLES = (
    """CREATE TABLE IF NOT EXISTS state (
        one INTEGER PRIMARY KEY,
        start INTEGER NOT NULL,
        writes INTEGER NOT NULL
    )""",
    "INSERT OR IGNORE INTO state VALUES (1, 0, 0)",
    """CREATE TABLE IF NOT EXISTS records (
        after INTEGER PRIMARY KEY,
        before INTEGER NOT NULL,
        evaluation INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        data BLOB NOT NULL
    )""",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a record without reading it.

    Attributes:
        before: where the stream stands before it.
        after: where it stands once it is applied.
        evaluation: whether it belongs to an evaluation.
        size: its bytes.
    """

    before: Position
    after: Position
    evaluation: bool
    size: int


class Entry(NamedTuple):
    """A record to write: what is known of it, and its bytes."""

    kept: Kept
    data: bytes


class Spool:
    """The database of one run; written by one thread, read by another.

    Args:
        path: its file; made where there is none.
        connect: opens it.

    Attributes:
        damage: what was found wrong when it was opened; None where all was well.

    Raises:
        CheckpointError: it cannot be written.
    """

    def __init__(self, path: Path, connect: Callable[[str], Any] | None = None) -> None:
        self._path = path
        self._connect = connect or _connect
        self.damage: str | None = None
        self._start: Position | None = Position(0)
        self._kept: list[Kept] = []
        self._connections: list[Any] = []
        try:
            self._open()
            sync_directory(path.parent)  # a new file's name
            self._check()
        except sqlite3.OperationalError as error:
            if "disk I/O" not in str(error) and "malformed" not in str(error):
                raise self._failure(error) from error
            self._note_damage(str(error))
        except sqlite3.DatabaseError as error:  # not a database, or pages of it are missing
            self._note_damage(str(error))

    # -------------------------------------------------------------- what is there

    @property
    def start(self) -> Position | None:
        """All up to here is durable at the cloud; None where the file does not tell it any more."""
        return self._start

    @property
    def end(self) -> Position | None:
        """Everything up to here is durable at the cloud, or was here and whole when the file was opened."""
        return self._kept[-1].after if self._kept else self._start

    @property
    def records(self) -> Sequence[Kept]:
        """The records that were here and whole when the file was opened."""
        return self._kept

    def read(self, after: Position) -> bytes:
        """Return the bytes of one record.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            rows = self._reader.execute("SELECT * FROM records WHERE after = ?", (_key(after),)).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        for key, before, evaluation, crc, data in rows:
            if _crc(key, before, evaluation, data) == crc:
                return bytes(data)
        raise CheckpointError(
            f"{self._path} is damaged: it does not have the record of batch {after.batches} as it was "
            "written; start again to go on from a checkpoint before it"
        )

    # -------------------------------------------------------------- changes

    def restart(self, start: Position, end: Position) -> None:
        """Keep the records in (start, end] only, in a file made anew where it was damaged."""
        if self.damage is not None:
            self._make_anew([kept for kept in self._kept if start < kept.after <= end])
        with self._transaction(synced=True):
            self._writer.execute("DELETE FROM records WHERE after > ?", (_key(end),))
            self._drop(start)

    def write(self, entries: Sequence[Entry], start: Position, synced: bool) -> None:
        """Add records and drop those up to `start`, in one transaction.

        Args:
            entries: the records.
            start: all up to here is durable at the cloud.
            synced: whether to wait until all that was ever written here is on the disk.

        Raises:
            CheckpointError: the disk is full or gone; nothing is changed.
        """
        with self._transaction(synced):
            for kept, data in entries:
                head = (_key(kept.after), _key(kept.before), int(kept.evaluation))
                row = (*head, _crc(*head, data), data)
                self._writer.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)
            self._drop(start)

    def close(self) -> None:
        """Close the file."""
        for connection in self._connections:
            connection.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    # -------------------------------------------------------------- the file

    def _open(self) -> None:
        self._connections = [self._connect(str(self._path)) for _ in range(2)]
        self._writer, self._reader = self._connections
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_SYNCS}")
        for statement in _TABLES:
            self._writer.execute(statement)

    def _check(self) -> None:
        """Read and check the records from `start` on, up to the first that is missing or not whole."""
        self._start = None
        ((start,),) = self._writer.execute("SELECT start FROM state").fetchall()
        self._start = expected = _position(start)
        rows = self._reader.execute("SELECT * FROM records WHERE after > ? ORDER BY after", (start,))
        for after, before, evaluation, crc, data in rows:
            kept = Kept(_position(before), _position(after), bool(evaluation), len(data))
            if _crc(after, before, evaluation, data) != crc:
                self._note_damage(f"the record of batch {kept.after.batches} is not as it was written")
                return
            if kept.before > expected:  # those between were in memory only when the process died
                return
            expected = kept.after
            self._kept.append(kept)

    def _make_anew(self, wanted: Sequence[Kept]) -> None:
        entries = [Entry(kept, self.read(kept.after)) for kept in wanted]
        self.remove()
        self._open()
        sync_directory(self._path.parent)
        self.write(entries, Position(0), synced=True)

    def _drop(self, start: Position) -> None:
        self._writer.execute("DELETE FROM records WHERE after <= ?", (_key(start),))
        # `writes` differs each time: what changes nothing would not be written, and not synced either.
        self._writer.execute("UPDATE state SET start = ?, writes = writes + 1", (_key(start),))

    @contextmanager
    def _transaction(self, synced: bool) -> Iterator[None]:
        try:
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._writer.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _note_damage(self, what: str) -> None:
        self.damage = f"{self._path} is damaged: {what}"
        log.warning("%s", self.damage)

    def _failure(self, error: sqlite3.Error) -> CheckpointError:
        advice = "make room" if "full" in str(error) else "mend that"
        return CheckpointError(f"cannot use {self._path}: {error}; {advice} and start again")


def _connect(path: str) -> sqlite3.Connection:
    """Open a database whose transactions are begun and ended by hand, from any thread."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _key(position: Position) -> int:
    """Return a position as the one integer that a table is ordered by."""
    return position.batches << 32 | position.parts


def _position(key: int) -> Position:
    return Position(key >> 32, key & 0xFFFFFFFF)


def _crc(after: int, before: int, evaluation: int, data: bytes) -> int:
    """Return a checksum of a whole row."""
    return zlib.crc32(data, zlib.crc32(b"%d %d %d" % (after, before, evaluation)))
