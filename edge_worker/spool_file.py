"""The spool's file: its tables and checksums, what counts as damage of it, and how a damaged one is replaced.

Where the records begin is there twice, each with a checksum: no other place tells it, as the first records
may have been in memory only when the process died. A new file is built beside the damaged one. Once it is
whole on the disk its name says so, and every start puts it in the other's place where that is not done yet.
"""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.durable import replace, sync_directory
from common.wire.messages import Position

_TABLES = (
    """CREATE TABLE records (
        after INTEGER PRIMARY KEY,
        before INTEGER NOT NULL,
        evaluation INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        data BLOB NOT NULL
    )""",
    """CREATE TABLE state (
        copy INTEGER PRIMARY KEY,
        start INTEGER NOT NULL,
        writes INTEGER NOT NULL,
        crc INTEGER NOT NULL
    )""",
)
_COPIES = (1, 2)

# What SQLite raises, and Python where damage is in a text.
FAULTS = (sqlite3.Error, UnicodeDecodeError)
# What it says where the file may be whole, but cannot be used. By text: Python 3.10 does not tell the code.
_FAILURES = {
    "access permission denied",
    "database is locked",
    "database or disk is full",
    "database table is locked",
    "disk I/O error",
    "large file support is disabled",
    "locking protocol",
    "out of memory",
    "unable to open database file",
}

Connect = Callable[[str], Any]


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


def connect(path: str) -> sqlite3.Connection:
    """Open a database whose transactions are begun and ended by hand, from any thread."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


# ------------------------------------------------------------------ rows


def key_of(position: Position) -> int:
    """Return a position as the one integer that a table is ordered by."""
    return position.batches << 32 | position.parts


def put_entry(connection: Any, entry: Entry) -> None:
    """Write a record, in place of one for the same position."""
    kept, data = entry
    head = (key_of(kept.after), key_of(kept.before), int(kept.evaluation))
    row = (*head, _crc(*head, data=data), data)
    connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)


def entry_of(row: Any) -> Entry | None:
    """Return the record of a row, or None where the row is not as it was written."""
    match row:
        case (int(after), int(before), int(evaluation), int(crc), bytes(data)):
            if crc == _crc(after, before, evaluation, data=data):
                return Entry(Kept(_position(before), _position(after), bool(evaluation), len(data)), data)
    return None


def put_start(connection: Any, start: Position, writes: int) -> None:
    """Write where the records begin; `writes` differs each time, as what changes nothing is not synced."""
    for copy in _COPIES:
        row = (copy, key_of(start), writes)
        connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)", (*row, _crc(*row)))


def starts(connection: Any) -> list[tuple[Position, int]]:
    """Return where the records begin, and the number of writes, from each copy that is as it was written."""
    whole = []
    for row in connection.execute("SELECT * FROM state").fetchall():
        match row:
            case (int(copy), int(start), int(writes), int(crc)) if crc == _crc(copy, start, writes):
                whole.append((_position(start), writes))
    return whole


def _position(key: int) -> Position:
    return Position(key >> 32, key & 0xFFFFFFFF)


def _crc(*head: int, data: bytes = b"") -> int:
    """Return a checksum of a whole row."""
    return zlib.crc32(data, zlib.crc32(b"%d %d %d" % head))


# ------------------------------------------------------------------ the file


def make_tables(connection: Any) -> None:
    """Make a new file's tables, within a transaction."""
    for table in _TABLES:
        connection.execute(table)
    put_start(connection, Position(0), 0)


def find_fault(connection: Any) -> str | None:
    """Return what is wrong with the structure of a file; None where it is whole, or new and empty."""
    ((verdict,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    return None if verdict == "ok" else str(verdict)


def tables_are_whole(connection: Any) -> bool | None:
    """Tell whether the tables are the ones made here; None where there are none yet."""
    tables = connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    return tuple(sql for (sql,) in tables) == _TABLES if tables else None


def is_failure(error: Exception, path: Path) -> bool:
    """Tell whether the file may be whole but cannot be used, as on a full disk; else the error is damage."""
    if "readonly" in str(error):  # one flipped bit of a file lets SQLite take it for read-only, too
        return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return isinstance(error, sqlite3.Error) and str(error) in _FAILURES


# ------------------------------------------------------------------ replacing it


def replace_file(path: Path, entries: Iterable[Entry], start: Position, connect: Connect) -> None:
    """Build a new file with these records beside the one at `path`, which stays as it is.

    `put_in_place` then puts it there.
    """
    building = _beside(path, ".building")
    _remove(building)  # left by one that the disk was too full for
    connection = connect(str(building))
    try:
        # Without a log of its own: what was not finished is not used.
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        make_tables(connection)
        for entry in entries:
            put_entry(connection, entry)
        put_start(connection, start, 1)
        connection.execute("COMMIT")
    finally:
        connection.close()
    replace(building, _beside(path, ".new"))


def put_in_place(path: Path) -> None:
    """Put a new file in the place of the damaged one, where there is one that is finished; drop any other."""
    _remove(_beside(path, ".building"))
    new = _beside(path, ".new")
    if new.exists():
        # First: SQLite would copy the old file's log into the new one.
        _remove_logs(path)
        sync_directory(path.parent)
        replace(new, path)


def remove_spool(path: Path) -> None:
    """Delete the file, and what lies beside it."""
    for each in (path, _beside(path, ".building"), _beside(path, ".new")):
        _remove(each)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_logs(path)


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
