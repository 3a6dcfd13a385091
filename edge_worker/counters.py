"""What a run has cost so far, over all its lives: bytes, busy seconds, wall time.

The file is replaced about once a second, without waiting for the disk: a kill loses at most the last second
of counting, and an SD card is spared.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import CheckpointError
from common.metrics import peak_rss_bytes

log = logging.getLogger(__name__)

SAVE_EVERY_S = 1.0


@dataclass(slots=True)
class Totals:
    """Sums over all lives of a run.

    Attributes:
        bytes_up: TCP payload sent, evaluation excluded, resends included.
        eval_bytes_up: the same for records of evaluations.
        bytes_down: TCP payload received.
        delivered_bytes: record bytes that the cloud confirmed, evaluation excluded.
        edge_busy_s: seconds in which the edge trained or encoded.
        edge_wait_s: seconds in which it waited for room in the spool.
        link_busy_s: seconds in which the uplink carried training records.
        train_wall_s: see `TrainingTime`.
        edge_peak_rss_bytes: the largest memory of any life.
        lives: how often training was started.
    """

    bytes_up: int = 0
    eval_bytes_up: int = 0
    bytes_down: int = 0
    delivered_bytes: int = 0
    edge_busy_s: float = 0.0
    edge_wait_s: float = 0.0
    link_busy_s: float = 0.0
    train_wall_s: float = 0.0
    edge_peak_rss_bytes: int = 0
    lives: int = 0


class Counters:
    """Totals that several threads add to, kept in a file.

    Args:
        path: the file.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        totals = _read(path)
        self._is_known = totals is not None
        self._totals = totals or Totals()
        self._saved_at = clock()

    def start(self, saved: dict[str, Any]) -> None:
        """Begin a life; `saved` are the checkpoint's totals, for where the file is gone or damaged."""
        with self._lock:
            if not self._is_known and saved:
                for name, value in saved.items():
                    setattr(self._totals, name, getattr(self._totals, name) + value)
            self._totals.lives += 1

    def add(self, **more: float) -> None:
        """Add to the totals of these names."""
        with self._lock:
            for name, value in more.items():
                setattr(self._totals, name, getattr(self._totals, name) + value)

    def totals(self) -> Totals:
        """Return a copy of the totals as they stand."""
        with self._lock:
            self._totals.edge_peak_rss_bytes = max(self._totals.edge_peak_rss_bytes, peak_rss_bytes())
            return Totals(**asdict(self._totals))

    def save(self, train_wall_s: float, now: float | None = None) -> None:
        """Write the file; with `now` given, only where the last time is a second ago."""
        if now is not None and now - self._saved_at < SAVE_EVERY_S:
            return
        self._saved_at = self._clock()
        with self._lock:
            self._totals.train_wall_s = train_wall_s
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(asdict(self.totals())))
            os.replace(partial, self._path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise CheckpointError(
                f"cannot write {self._path}: {error.strerror}; make room and start again"
            ) from error


def _read(path: Path) -> Totals | None:
    """Return what the file says; None where it is not there, or was cut off by a loss of power."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        return Totals(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s is damaged (%s); counting goes on from the last checkpoint", path, error)
        return None


@dataclass(slots=True)
class TrainingTime:
    """Wall time of training: from the first step to the last batch applied, without evaluations.

    The time of an epoch runs until its last batch is applied. It begins with the epoch's first step, but not
    before the epoch ahead is applied, nor before the cloud's evaluation there, if there is one, is done.

    Attributes:
        batches_per_epoch: batches in one epoch.
        closed_s: time of earlier lives, then of all epochs that are over.
        epoch: the first epoch not yet applied, from 0.
    """

    batches_per_epoch: int
    closed_s: float
    epoch: int
    _ready_at: float = 0.0
    _first_steps: dict[int, float] = field(default_factory=dict)

    def step(self, epoch: int, now: float) -> None:
        """Note that a step of `epoch` begins."""
        self._first_steps.setdefault(epoch, now)

    def applied(self, batches: int, now: float) -> None:
        """Note that `batches` batches are applied."""
        while batches >= (self.epoch + 1) * self.batches_per_epoch and self.epoch in self._first_steps:
            self.closed_s = self.value(now)
            del self._first_steps[self.epoch]
            self.epoch += 1
            self._ready_at = now

    def evaluated(self, batches: int, now: float) -> None:
        """Note that the cloud is done with the evaluation after `batches` batches."""
        if batches == self.epoch * self.batches_per_epoch:
            self._ready_at = now

    def value(self, now: float) -> float:
        """Return the seconds of training up to `now`."""
        started = self._first_steps.get(self.epoch)
        return self.closed_s + (max(0.0, now - max(started, self._ready_at)) if started is not None else 0.0)
