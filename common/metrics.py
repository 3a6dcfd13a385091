"""What a run writes down about itself: lines of JSON, and the process's peak memory."""

import contextlib
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.durable import cannot_write
from common.errors import CheckpointError


def peak_rss_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes.

    Linux tells it in VmHWM; `ru_maxrss` is at least that of the process which started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class MetricsLog:
    """A file with one JSON object a line, which can be cut back to an earlier length.

    Lines are handed to the system as they are written; `sync` makes them durable and tells the length to
    come back to.

    Raises:
        CheckpointError: the file cannot be written, or is shorter than `keep_bytes`.
    """

    def __init__(self, path: Path, keep_bytes: int) -> None:
        self._path = path
        with self._as_checkpoint_error():
            self._file = path.open("ab", buffering=0)
            size = os.fstat(self._file.fileno()).st_size
            if size < keep_bytes:
                self._file.close()
                raise CheckpointError(
                    f"{path} has {size} bytes, the checkpoint to resume from wrote {keep_bytes}; "
                    "put the file back, or start a new run with another --run-dir"
                )
            self._file.truncate(keep_bytes)

    def write(self, **values: Any) -> None:
        """Append one object."""
        line = json.dumps(values, allow_nan=False).encode() + b"\n"
        with self._as_checkpoint_error():
            while line:  # an unbuffered write may be short
                line = line[self._file.write(line) :]

    def sync(self) -> int:
        """Make all lines durable; return the file's length in bytes."""
        with self._as_checkpoint_error():
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def _as_checkpoint_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self._path, error) from error
