"""What a run directory keeps, and taking sessions out of it; on the disk, beside a server or without.

A session is removed by renaming its directory, then deleting it: what a kill leaves over is no session.
"""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from torch import Tensor

from cloud_worker.store import SessionFiles, check_session_id
from common.errors import CheckpointError, ConfigError, NotFoundError, WireError
from common.rundir import lock_run_dir

# Two checkpoints of weights and momentum, and the weights for export.
COPIES = 5
REMOVED = ".removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSession:
    """One session as the disk has it; what is None cannot be read, because a file is damaged.

    Attributes:
        session: its id.
        owner: who opened it; "" for an edge without a name.
        model, split: what is trained.
        batches: how many of `total_batches` the newest checkpoint has behind it.
        finished: the back's weights are there.
        bytes: disk space.
        changed: when a file was last written, ISO 8601, UTC.
    """

    session: str
    owner: str | None = None
    model: str | None = None
    split: str | None = None
    batches: int | None = None
    total_batches: int | None = None
    finished: bool | None = None
    bytes: int
    changed: str


def bytes_to_reserve(weights: Mapping[str, Tensor]) -> int:
    """Return the disk space that a session with these weights will take."""
    return COPIES * sum(tensor.nbytes for tensor in weights.values())


def kept_bytes(run_dir: Path) -> int:
    """Return the disk space that all sessions take, or were expected to when they were opened."""
    total = 0
    for files in _all_sessions(run_dir):
        try:
            # A complete one grows no more, and has let go of the images that it kept.
            reserved = 0 if files.weights_file.exists() else files.reserved_bytes()
            total += max(reserved, _used_bytes(files.directory))
        except CheckpointError:  # damaged, or removed by now
            total += _used_bytes(files.directory)
    return total


def is_all_that_trains(run_dir: Path, session_id: str) -> bool:
    """Tell whether every session on the disk but this one is complete."""
    return all(files.name == session_id or files.weights_file.exists() for files in _all_sessions(run_dir))


def list_sessions(run_dir: Path) -> list[KeptSession]:
    """Return what `run_dir` keeps, the last changed first.

    Raises:
        ConfigError: there is no such directory.
    """
    _check_run_dir(run_dir)
    found = [_describe(files) for files in _all_sessions(run_dir)]
    return sorted(found, key=lambda kept: kept.changed, reverse=True)


def remove_sessions(run_dir: Path, session_ids: Sequence[str]) -> dict[str, int]:
    """Delete sessions with all that was trained; return the disk space that each of them took.

    Raises:
        ConfigError: a server runs on `run_dir`, or there is no such directory.
        WireError, NotFoundError: one of them is no session's id, or not kept here; nothing is removed then.
        CheckpointError: the disk does not let go of a file.
    """
    _check_run_dir(run_dir)
    for session_id in session_ids:
        check_session_id(session_id)
        if not (run_dir / session_id).is_dir():
            raise NotFoundError(
                f"{run_dir} keeps no session {session_id}; cloud-worker sessions list shows them"
            )
    try:
        lock = lock_run_dir(run_dir)
    except ConfigError as error:
        raise ConfigError(f"a server runs on {run_dir}; stop it first, then remove sessions") from error
    try:
        return {session_id: _remove(run_dir, session_id) for session_id in dict.fromkeys(session_ids)}
    except OSError as error:
        raise CheckpointError(f"cannot remove {error.filename}: {error.strerror}") from error
    finally:
        os.close(lock)


def _remove(run_dir: Path, session_id: str) -> int:
    size = _used_bytes(run_dir / session_id)
    (run_dir / session_id).rename(run_dir / (session_id + REMOVED))
    for left in run_dir.glob("*" + REMOVED):
        shutil.rmtree(left)
    return size


def _check_run_dir(run_dir: Path) -> None:
    if not run_dir.is_dir():
        raise ConfigError(
            f"there is no run directory {run_dir}; give --run-dir the one of cloud-worker serve"
        )


def _all_sessions(run_dir: Path) -> Iterator[SessionFiles]:
    for path in sorted(run_dir.glob("*")):
        with suppress(WireError):  # not named as a session is
            yield SessionFiles(run_dir, path.name)


def _describe(files: SessionFiles) -> KeptSession:
    status = _status_of_files(files.directory)
    changed = datetime.fromtimestamp(max((each.st_mtime for each in status), default=0.0), timezone.utc)
    kept = KeptSession(
        session=files.directory.name,
        bytes=sum(each.st_size for each in status),
        changed=changed.isoformat(timespec="seconds"),
    )
    try:
        run, _ = files.read()
        return replace(
            kept,
            owner=files.owner(),
            model=run.model,
            split=run.split,
            batches=min(files.applied_batches(), run.total_batches),
            total_batches=run.total_batches,
            finished=files.weights_file.exists(),
        )
    except CheckpointError:
        return kept


def _used_bytes(directory: Path) -> int:
    return sum(each.st_size for each in _status_of_files(directory))


def _status_of_files(directory: Path) -> list[os.stat_result]:
    """Return the status of all files in `directory` and below; a server may be renaming some of them."""
    found = []
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            found.append(path.lstat())
    return [each for each in found if stat.S_ISREG(each.st_mode)]
