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

from common.durable import cannot_write
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
        edge_busy_s: seconds in which the edge trained, or its training waited for the encoder; what both do
            at the same time counts once.
        edge_wait_s: seconds in which it waited for room in the spool, or for gradients that come back.
        link_busy_s: seconds in which the uplink carried training records.
        link_down_busy_s: seconds in which the downlink carried anything, where it is emulated.
        train_wall_s: see `TrainingTime`.
        edge_peak_rss_bytes: the largest memory of any life.
        lives: how often training was started.
        epoch_train_s: `train_wall_s` as each epoch's last batch was applied.
        epoch_bytes_up: `bytes_up` as the stream came to what follows each epoch's last batch.
    """

    bytes_up: int = 0
    eval_bytes_up: int = 0
    bytes_down: int = 0
    delivered_bytes: int = 0
    edge_busy_s: float = 0.0
    edge_wait_s: float = 0.0
    link_busy_s: float = 0.0
    link_down_busy_s: float = 0.0
    train_wall_s: float = 0.0
    edge_peak_rss_bytes: int = 0
    lives: int = 0
    epoch_train_s: list[float] = field(default_factory=list)
    epoch_bytes_up: list[int] = field(default_factory=list)


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
        self._saving = threading.Lock()  # held while the file is written
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
            train_wall_s = self._totals.train_wall_s
        # At once: a life that is killed early counts, too.
        self.save(train_wall_s)

    def add(self, **more: float) -> None:
        """Add to the totals of these names."""
        with self._lock:
            for name, value in more.items():
                setattr(self._totals, name, getattr(self._totals, name) + value)

    def note_applied(self, epochs: int, train_wall_s: float) -> None:
        """Note that so many epochs are applied after this time; one applied again is known already."""
        with self._lock:
            known = self._totals.epoch_train_s
            known += [train_wall_s] * (epochs - len(known))

    def note_sent(self, epochs: int) -> None:
        """Note that so many epochs are sent; one sent again is known already."""
        with self._lock:
            known = self._totals.epoch_bytes_up
            known += [self._totals.bytes_up] * (epochs - len(known))

    def totals(self) -> Totals:
        """Return a copy of the totals as they stand."""
        with self._lock:
            self._totals.edge_peak_rss_bytes = max(self._totals.edge_peak_rss_bytes, peak_rss_bytes())
            return Totals(**asdict(self._totals))

    def save(self, train_wall_s: float, now: float | None = None) -> None:
        """Write the file; with `now` given, only where the last time is a second ago."""
        with self._saving:
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
                raise cannot_write(self._path, error) from error


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


class TrainingTime:
    """Wall time of training: from the first step to the last batch applied, without evaluations and downtime.

    The time of an epoch runs until its last batch is applied. It begins with the epoch's first step, but not
    before the epoch ahead is applied, nor before the cloud's evaluation there, if there is one, is done.
    Where the first step was in an earlier life, it goes on with this life's first step, or with the cloud's
    first word if that comes sooner: before that nobody works. A cloud that lost what it had applied opens its
    epoch again. The training thread and the uplink share it.

    Args:
        total_batches: in all epochs.
        batches_per_epoch: in one.
        earlier_s: time of earlier lives.
        done: batches that the edge trained in them.
        applied: as many are applied, as far as is known.
    """

    def __init__(
        self,
        total_batches: int,
        batches_per_epoch: int,
        earlier_s: float = 0.0,
        done: int = 0,
        applied: int = 0,
    ) -> None:
        self._total = total_batches
        self._per_epoch = batches_per_epoch
        self._closed_s = earlier_s
        self._done = done
        self._epoch = self._epochs(applied)  # the first one not yet applied, from 0
        # Epochs below were begun in earlier lives.
        self._begun = -(-max(done, min(applied, total_batches)) // batches_per_epoch)
        self._working_at: float | None = None  # since when somebody works in this life
        self._ready_at = 0.0
        self._first_steps: dict[int, float] = {}
        self._lock = threading.RLock()

    def step(self, epoch: int, now: float) -> None:
        """Note that a step of `epoch` begins."""
        with self._lock:
            self._first_steps.setdefault(epoch, now)
            self._work(now)

    def found(self, batches: int, now: float) -> None:
        """Take the cloud's first word in this life: it had applied so much before."""
        with self._lock:
            self._epoch = max(self._epoch, self._epochs(batches))
            self._begun = max(self._begun, -(-min(batches, self._total) // self._per_epoch))
            if self._epoch * self._per_epoch < self._done:
                self._work(now)

    def applied(self, batches: int, now: float) -> None:
        """Note that `batches` batches are applied."""
        with self._lock:
            if self._epochs(batches) < self._epoch:
                self._closed_s = self.value(now)
                self._begun = max(self._begun, self._epoch)
                self._epoch = self._epochs(batches)
                self._ready_at = now
                self._work(now)
            while self._epoch < self._epochs(batches) and self._started() is not None:
                self._closed_s = self.value(now)
                self._epoch += 1
                self._ready_at = now

    @property
    def epochs(self) -> tuple[int, float]:
        """How many epochs are over, and their seconds."""
        with self._lock:
            return self._epoch, self._closed_s

    def evaluated(self, batches: int, now: float) -> None:
        """Note that the cloud is done with the evaluation after `batches` batches."""
        with self._lock:
            if batches == self._epoch * self._per_epoch:
                self._ready_at = now

    def value(self, now: float) -> float:
        """Return the seconds of training up to `now`."""
        with self._lock:
            started = self._started()
            if started is None:
                return self._closed_s
            return self._closed_s + max(0.0, now - max(started, self._ready_at))

    def _epochs(self, batches: int) -> int:
        """Return how many epochs are over; the end of the run counts as one more batch."""
        return min(batches, self._total) // self._per_epoch

    def _work(self, now: float) -> None:
        if self._working_at is None:
            self._working_at = now

    def _started(self) -> float | None:
        """Return when the time of the epoch under way began in this life, were there no other before it."""
        if self._epoch < self._begun:
            return self._working_at
        return self._first_steps.get(self._epoch)
