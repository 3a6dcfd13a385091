"""A disk that loses power: records what is written to it, and builds what each moment may have left.

A file's content is safe once the file is synced, its name once its directory is. What is not safe when the
power goes may be lost or not, each for itself.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import apsw

# What of the unsynced is on the disk: nothing, everything, only names, only contents.
MODES = ("dropped", "kept", "names", "contents")
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
        names: dict[str, int] = {}
        safe_names: dict[str, int] = {}
        contents: list[bytearray] = []
        safe: list[bytes] = []
        for kind, path, *what in self.ops[:count]:
            if kind == "create":
                names[path] = len(contents)
                contents.append(bytearray())
                safe.append(b"")
            elif kind == "write":
                offset, data = what
                content = contents[names[path]]
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            elif kind == "truncate":
                del contents[names[path]][what[0] :]
            elif kind == "sync":
                safe[names[path]] = bytes(contents[names[path]])
            elif kind == "rename":
                names[os.path.relpath(what[0], self.folder)] = names.pop(path)
            elif kind == "unlink":
                names.pop(path, None)
            elif kind == "sync names":
                safe_names = {n: i for n, i in safe_names.items() if os.path.dirname(n) != path.strip(".")}
                safe_names |= {n: i for n, i in names.items() if os.path.dirname(n) == path.strip(".")}
            else:
                raise AssertionError(f"an unknown operation, {kind}")
        there = names if mode in ("kept", "names") else safe_names
        return {
            name: bytes(contents[inode]) if mode in ("kept", "contents") else safe[inode]
            for name, inode in there.items()
        }


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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        # In two, so that a power cut can come between.
        half = len(data) // 2
        self._disk.note("write", self._path, 0, data[:half])
        self._disk.note("write", self._path, half, data[half:])
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
