"""What a run writes down about itself: lines of JSON, and the process's peak memory."""

import json
import os
import resource
from pathlib import Path
from typing import Any

from common.errors import CheckpointError


def peak_rss_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class MetricsLog:
    """A file with one JSON object a line, which can be cut back to an earlier length.

    Lines are handed to the system as they are written; `sync` makes them durable and tells the length to
    come back to.
    """

    def __init__(self, path: Path, keep_bytes: int) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
            self._file.truncate(keep_bytes)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from error

    def write(self, **values: Any) -> None:
        """Append one object."""
        try:
            self._file.write(json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self._path}: {error.strerror}; make room and start again"
            ) from error

    def sync(self) -> int:
        """Make all lines durable; return the file's length in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
