"""A disk that loses power: records what is written to it, and builds what each moment may have left.

A file's content is safe once the file is synced, its name once its directory is. What is not safe when the
power goes may be lost or not: all of one kind, or some of the writes to each file, in whatever order, and the
last few changes of the names in each folder.
"""

import os
import random
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

# What of the unsynced is on the disk: nothing, everything, only names, only contents, some of each.
MODES = ("dropped", "kept", "names", "contents", "some")
_VFS = "recording"


class Disk:
    """What happens to the files below one folder, in order.

    Attributes:
        ops: (kind, path relative to the folder, ...) of each change and each sync.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ops: list[tuple] = []

    def note(self, kind: str, path: str | Path, *what: object) -> None:
        """Record an operation."""
        self.ops.append((kind, os.path.relpath(path, self.folder), *what))

    def states(self, to: Path, start: int = 0) -> Iterator[tuple[int, str, Path]]:
        """Build each state that a power cut after `start` operations or more may leave.

        Yields:
            Operations done, the mode, and a folder with the files of that moment.
        """
        for count in range(start, len(self.ops) + 1):
            for mode in MODES:
                folder = to / f"{count}-{mode}"
                for name, content in self._files(count, mode).items():
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                yield count, mode, folder

    def _files(self, count: int, mode: str) -> dict[str, bytes]:
        replay = _Replay(self.folder)
        for kind, path, *what in self.ops[:count]:
            getattr(replay, kind.replace(" ", "_"))(path, *what)
        # Which of the steps since a folder or a file was synced: a random one, the first or the last.
        some = random.Random(count)
        first, last = (lambda steps: steps[0]), (lambda steps: steps[-1])
        names = {"dropped": first, "contents": first, "some": some.choice}.get(mode, last)
        there = {name: file for listings in replay.folders.values() for name, file in names(listings).items()}
        chance = {"dropped": 0, "names": 0, "some": 0.5}.get(mode, 1)
        contents = [file.content(lambda: some.random() < chance) for file in replay.files]
        return {name: contents[file] for name, file in there.items()}


class _Replay:
    """What the operations so far have made of files and folders, and what of it is synced.

    Attributes:
        files: each that was ever made.
        folders: the names in each, with numbers of files, as they were synced and after each change since.
    """

    def __init__(self, top: Path) -> None:
        self._top = top
        self._names: dict[str, int] = {}
        self.files: list[_File] = []
        self.folders: dict[str, list[dict[str, int]]] = defaultdict(lambda: [{}])

    def create(self, path: str) -> None:
        self._names[path] = len(self.files)
        self.files.append(_File())
        self._renamed(os.path.dirname(path))

    def write(self, path: str, offset: int, data: bytes) -> None:
        self._file(path).unsynced.append((offset, data))

    def truncate(self, path: str, size: int) -> None:
        self._file(path).unsynced.append((size, None))

    def sync(self, path: str) -> None:
        file = self._file(path)
        file.safe = file.content(lambda: True)
        file.unsynced = []

    def rename(self, source: str, target: Path) -> None:
        self._names[os.path.relpath(target, self._top)] = self._names.pop(source)
        self._renamed(os.path.dirname(source))

    def unlink(self, path: str) -> None:
        self._names.pop(path, None)
        self._renamed(os.path.dirname(path))

    def sync_names(self, folder: str) -> None:
        folder = folder.strip(".")
        self._renamed(folder)
        del self.folders[folder][:-1]

    def _file(self, path: str) -> "_File":
        return self.files[self._names[path]]

    def _renamed(self, folder: str) -> None:
        listing = {name: file for name, file in self._names.items() if os.path.dirname(name) == folder}
        self.folders[folder].append(listing)


@dataclass
class _File:
    safe: bytes = b""
    # Since then: offset and data, or a size and None where it was cut to that.
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, is_kept: Callable[[], bool]) -> bytes:
        content = bytearray(self.safe)
        for at, data in self.unsynced:
            if not is_kept():
                continue
            if data is None:
                del content[at:]
            else:
                content.extend(bytes(max(0, at - len(content))))
                content[at : at + len(data)] = data
        return bytes(content)


class RecordingOs:
    """Stands in for `os` and `open` in `common.durable`, and for `Path.unlink`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._paths: dict[int, Path] = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def patch(self, monkeypatch) -> None:
        """Record what goes through `common.durable`, and the removal of checkpoints."""
        monkeypatch.setattr("common.durable.os", self)
        monkeypatch.setattr("common.durable.open", self.open_file, raising=False)
        unlink = Path.unlink

        def removed(path, missing_ok=False):
            self._disk.note("unlink", path)
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", removed)

    def open_file(self, path, mode):
        """As `open` of a new binary file."""
        assert mode == "wb"
        self._disk.note("create", path)
        file = open(path, mode)  # noqa: SIM115
        self._paths[file.fileno()] = Path(path)
        return _RecordingFile(self._disk, path, file)

    def open(self, path, flags):
        """As `os.open`, which is for directories."""
        handle = os.open(path, flags)
        self._paths[handle] = Path(path)
        return handle

    def fsync(self, handle):
        """As `os.fsync`; of a directory it makes names safe."""
        path = self._paths[handle]
        self._disk.note("sync names" if path.is_dir() else "sync", path)

    def replace(self, source, target):
        """As `os.replace`."""
        os.replace(source, target)
        self._disk.note("rename", source, target)


class _RecordingFile:
    def __init__(self, disk, path, file):
        self._disk, self._path, self._file = disk, path, file
        self._offset = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        # In two, so that a power cut can come between.
        half = len(data) // 2
        self._disk.note("write", self._path, self._offset, data[:half])
        self._disk.note("write", self._path, self._offset + half, data[half:])
        self._offset += len(data)
        return self._file.write(data)


class RecordingVfs(apsw.VFS):
    """SQLite's way to the disk, with each write recorded."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(_VFS, "")
        self._disk = disk

    def connect(self, path: str) -> apsw.Connection:
        """Open a database through it, as `sqlite3.connect` would."""
        return apsw.Connection(path, vfs=_VFS)

    def xOpen(self, name, flags):
        """Open a file."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        new = path is not None and not os.path.exists(path)
        file = _VfsFile(name, flags, self._disk, path)
        if new:
            self._disk.note("create", path)
        return file

    def xDelete(self, path, sync):
        """Delete a file."""
        super().xDelete(path, sync)
        self._disk.note("unlink", path)
        if sync:
            self._disk.note("sync names", os.path.dirname(path))


class _VfsFile(apsw.VFSFile):
    def __init__(self, name, flags, disk, path):
        self._disk, self._path = disk, path
        # SQLite has the name of a log that it makes on the disk with the log's first sync.
        self._name_is_safe = path is None or not path.endswith(("-wal", "-journal"))
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self._disk.note("write", self._path, offset, bytes(data))

    def xTruncate(self, size):
        super().xTruncate(size)
        self._disk.note("truncate", self._path, size)

    def xSync(self, flags):
        super().xSync(flags)
        self._disk.note("sync", self._path)
        if not self._name_is_safe:
            self._name_is_safe = True
            self._disk.note("sync names", os.path.dirname(self._path))


def connect_in_haste(path: str) -> sqlite3.Connection:
    """Open a database that never waits for the disk: for tests that open thousands."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Hasty)


class _Hasty(sqlite3.Connection):
    def execute(self, sql, *values):
        return super().execute("PRAGMA synchronous = OFF" if "synchronous" in sql else sql, *values)
