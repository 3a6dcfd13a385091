"""Records on the edge's disk: an embedded database, SQLite with a write-ahead log, in one file.

Everything up to `start` is durable at the cloud; the records after it follow each other without a gap, each
with its checksum. A write is one transaction. Only the one that goes with a checkpoint waits for the disk: a
killed process loses nothing that was written, a power cut nothing that the last checkpoint stands on. Damage
costs what is damaged: the file is made anew from the records that are whole.
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.durable import cannot_write, sync_directory
from common.errors import CheckpointError
from common.logs import one_line
from common.wire.messages import Position
from edge_worker import spool_file
from edge_worker.spool_file import FAULTS, Connect, Entry, Kept, entry_of, key_of

log = logging.getLogger(__name__)

# The write-ahead log is copied back, which waits for the disk, after this many pages of 4 KiB.
_PAGES_BETWEEN_SYNCS = 16_384


class Spool:
    """The database of one run; written by one thread at a time, read by another.

    Args:
        path: its file; made where there is none.
        connect: opens it.

    Attributes:
        damage: what was found wrong; None where all was well, or the file was made anew.

    Raises:
        CheckpointError: it cannot be written.
    """

    def __init__(self, path: Path, connect: Connect = spool_file.connect) -> None:
        self._path = path
        self._connect = connect
        self.damage: str | None = None
        self._start: Position | None = None
        self._writes = 0
        self._kept: list[Kept] = []
        self._connections: list[Any] = []
        try:
            spool_file.put_in_place(path)
            self._open()
            sync_directory(path.parent)  # a new file's name
            self._check()
        except FAULTS as error:
            if spool_file.is_failure(error, path):
                self.close()
                raise self._failure(error) from error
            self._note_damage(error)
        except OSError as error:
            self.close()
            raise cannot_write(path, error) from error

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
            rows = self._reader.execute("SELECT * FROM records WHERE after = ?", (key_of(after),)).fetchall()
        except FAULTS as error:
            raise self._failure(error) from error
        for entry in map(entry_of, rows):
            if entry is not None and entry.kept.after == after:
                return entry.data
        raise self._lost(after)

    # -------------------------------------------------------------- changes

    def restart(self, start: Position, end: Position) -> None:
        """Keep the records in (start, end] only, in a file made anew where it was damaged.

        Raises:
            CheckpointError: the disk is full or gone; what was there stays.
        """
        if self.damage is None:
            try:
                with self._transaction(synced=True):
                    self._writer.execute("DELETE FROM records WHERE after > ?", (key_of(end),))
                    self._drop(start)
                return
            except FAULTS as error:
                if spool_file.is_failure(error, self._path):
                    raise self._failure(error) from error
                self._note_damage(error)
        try:
            self._make_anew(start, end)
        except FAULTS as error:
            raise self._failure(error) from error
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def write(self, entries: Sequence[Entry], start: Position, synced: bool) -> None:
        """Add records and drop those up to `start`, in one transaction.

        Args:
            entries: the records.
            start: all up to here is durable at the cloud.
            synced: whether to wait until all that was ever written here is on the disk.

        Raises:
            CheckpointError: the disk is full or gone; nothing is changed.
        """
        try:
            with self._transaction(synced):
                for entry in entries:
                    spool_file.put_entry(self._writer, entry)
                self._drop(start)
        except FAULTS as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the file."""
        for connection in self._connections:
            connection.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        spool_file.remove_spool(self._path)

    # -------------------------------------------------------------- the file

    def _open(self) -> None:
        self._connections = [self._connect(str(self._path)) for _ in range(2)]
        self._writer, self._reader = self._connections
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_SYNCS}")

    def _check(self) -> None:
        """Find the records from `start` on, up to the first that is missing or not whole."""
        fault = spool_file.find_fault(self._reader)
        if fault is not None:
            self._note_damage(fault)
        tables_are_whole = spool_file.tables_are_whole(self._reader)
        if tables_are_whole is None and fault is None:
            with self._transaction(synced=True):
                spool_file.make_tables(self._writer)
        elif not tables_are_whole:
            self._note_damage("it does not have the tables of a spool")
            return
        starts = spool_file.starts(self._reader)
        if len(starts) < 2:
            self._note_damage("where its records begin is not as it was written")
        if starts:
            self._start, self._writes = min(starts)
            self._check_records(self._start)

    def _check_records(self, expected: Position) -> None:
        # From the very first on, as only a walk through all of them passes by damage in the tree above them.
        for row in self._reader.execute("SELECT * FROM records ORDER BY after"):
            entry = entry_of(row)
            if entry is None:
                self._note_damage(f"what comes after batch {expected.batches} is not as it was written")
                return
            if entry.kept.before > expected:  # those between were in memory only when the process died
                return
            if entry.kept.after > expected:
                expected = entry.kept.after
                self._kept.append(entry.kept)

    def _make_anew(self, start: Position, end: Position) -> None:
        wanted = [kept for kept in self._kept if start < kept.after <= end]
        spool_file.replace_file(self._path, self._entries(wanted), start, self._connect)
        self.close()
        spool_file.put_in_place(self._path)
        self._open()
        self._writes = 1
        self.damage = None

    def _entries(self, wanted: Sequence[Kept]) -> Iterator[Entry]:
        rest = iter(wanted)
        kept = next(rest, None)
        if kept is None:
            return
        for row in self._reader.execute("SELECT * FROM records ORDER BY after"):
            entry = entry_of(row)
            if entry is not None and entry.kept == kept:
                yield entry
                kept = next(rest, None)
                if kept is None:
                    return
        raise self._lost(kept.after)

    def _drop(self, start: Position) -> None:
        self._writer.execute("DELETE FROM records WHERE after <= ?", (key_of(start),))
        self._writes += 1
        spool_file.put_start(self._writer, start, self._writes)

    @contextmanager
    def _transaction(self, synced: bool) -> Iterator[None]:
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._writer.execute("ROLLBACK")
            raise

    def _note_damage(self, what: object) -> None:
        if self.damage is None:
            self.damage = f"{self._path} is damaged: {one_line(str(what))}"
            log.warning("%s", self.damage)

    def _lost(self, after: Position) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is damaged: it does not have the record of batch {after.batches} as it was "
            "written; start again to go on from a checkpoint before it"
        )

    def _failure(self, error: Exception) -> CheckpointError:
        reason = one_line(str(error))
        if not spool_file.is_failure(error, self._path):
            return CheckpointError(
                f"{self._path} is damaged: {reason}; start again to go on with what is whole of it"
            )
        advice = "make room" if "full" in reason else "mend that"
        return CheckpointError(f"cannot use {self._path}: {reason}; {advice} and start again")
