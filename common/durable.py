"""Files and directories that a power cut finds whole: what has returned is on the disk."""

import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import CheckpointError

PARTIAL = ".partial"  # what is being written; a kill leaves it
SEAL = "checksum"
Piece: TypeAlias = bytes | memoryview  # of a file


def write_atomic(path: Path, content: bytes | Iterable[Piece]) -> None:
    """Replace `path`, so that a reader or a power cut finds the old file or the new one whole.

    Args:
        path: the file.
        content: all of it, or its pieces, of which one at a time is asked for: all may be a network.

    Raises:
        CheckpointError: the disk is full, read-only or gone; nothing is left half-written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        replace(partial, path)
    except BaseException as error:  # a piece may not have been to be had
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def sealed(values: dict[str, Any], unsealed: Collection[str] = ()) -> bytes:
    """Return values as JSON, with a checksum of all but those in `unsealed`, which a person may edit."""
    document = {**values, SEAL: _seal(values, unsealed)}
    return json.dumps(document, indent=2, default=str).encode() + b"\n"


def opened(data: bytes, unsealed: Collection[str] = ()) -> dict[str, Any]:
    """Return what `sealed` was given, as JSON has it; raises ValueError where a bit of it has changed."""
    values = json.loads(data)
    if not isinstance(values, dict) or values.pop(SEAL, None) != _seal(values, unsealed):
        raise ValueError("its checksum does not match its content, or is that of another release")
    return values


def _seal(values: dict[str, Any], unsealed: Collection[str]) -> str:
    kept = {name: value for name, value in values.items() if name not in unsealed}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def cannot_write(path: Path, error: OSError) -> CheckpointError:
    """Return what to raise where `path` could not be written, with what helps against this reason."""
    advice = {
        errno.ENOSPC: "make room and start again",
        errno.EDQUOT: "make room and start again",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f) and start again",
        errno.ENOENT: f"is the folder {path.parent} still there?",
        errno.ENOTDIR: f"{path.parent} must be a folder",
        errno.EROFS: "mount the disk writable, or use another place",
        errno.EACCES: "let this user write there, or use another place",
        errno.EPERM: "let this user write there, or use another place",
    }
    what = advice.get(error.errno or 0, "mend that and start again")
    return CheckpointError(f"cannot write {path}: {error.strerror}; {what}")


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing; a directory that is there is left as it is.

    Raises:
        CheckpointError: it cannot be made.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for each in missing:
            sync_directory(each.parent)
    except OSError as error:
        raise CheckpointError(f"cannot make {path}: {error.strerror}") from error


def replace(source: Path, target: Path) -> None:
    """Give a file that is on the disk another name in its folder, in place of the file that has it."""
    os.replace(source, target)
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk; the content of a file may be there without its name."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
