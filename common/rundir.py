"""A run directory belongs to one process at a time."""

import fcntl
import os
from pathlib import Path

from common.durable import make_directory
from common.errors import CheckpointError, ConfigError


def lock_run_dir(run_dir: Path) -> int:
    """Make `run_dir` and lock it until this process ends; return the lock's file descriptor.

    Raises:
        ConfigError: another process holds it.
        CheckpointError: it cannot be made or written to.
    """
    make_directory(run_dir)
    try:
        handle = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CheckpointError(f"cannot use the run directory {run_dir}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(
            f"{run_dir} is in use by another process; wait for it to end, or use another --run-dir"
        ) from error
    except OSError as error:  # a file system without locks
        os.close(handle)
        raise CheckpointError(f"cannot lock the run directory {run_dir}: {error.strerror}") from error
    return handle
