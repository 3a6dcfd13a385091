"""metrics.jsonl: what each batch and evaluation came to, on both sides.

Epochs count from 1, batches (`seq`) from 0. Lines of the cloud come when its acks do. On resume the file is
cut back to the checkpoint, and the cloud tells again what came after.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.metrics import MetricsLog
from common.wire.messages import EvaluationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMark:
    """A place in the log to come back to.

    Attributes:
        length: bytes of the file.
        losses: the cloud's losses of all batches below this are in it.
        results: the cloud's evaluations that are in it.
        edge_accuracy: of the last evaluation of the edge, in 0..1.
    """

    length: int = 0
    losses: int = 0
    results: tuple[dict[str, Any], ...] = ()
    edge_accuracy: float | None = None


class RunLog:
    """Writes metrics.jsonl; the training thread and the uplink share it.

    Args:
        path: the file.
        batches_per_epoch: to name the epoch of a batch.
        mark: where to go on.
        on_event: called with each object written; the display listens here.
    """

    def __init__(
        self,
        path: Path,
        batches_per_epoch: int,
        mark: LogMark,
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._file = MetricsLog(path, mark.length)
        self._batches_per_epoch = batches_per_epoch
        self._lock = threading.Lock()
        self._on_event = on_event
        self._losses = mark.losses
        self._results = {result["batches"]: EvaluationResult(**result) for result in mark.results}
        self.edge_accuracy = mark.edge_accuracy

    def edge_batch(self, seq: int, loss: float | None, lr: float | None) -> None:
        """One step of the edge; what does not apply to its strategy is None."""
        with self._lock:
            self._write("edge", seq, self._epoch(seq), loss=_finite(loss), lr=lr)

    def cloud_losses(self, first: int, losses: Sequence[float]) -> None:
        """Losses of the cloud's steps from batch `first` on; those already written are passed over."""
        with self._lock:
            for seq, loss in enumerate(losses, first):
                if seq == self._losses:
                    self._write("cloud", seq, self._epoch(seq), loss=_finite(loss))
                    self._losses += 1

    def edge_evaluation(self, batches: int, correct: int, total: int) -> None:
        """The accuracy of what the edge has, after `batches` batches."""
        with self._lock:
            self.edge_accuracy = correct / total
            self._write_evaluation("edge", batches, self.edge_accuracy)

    def cloud_evaluation(self, result: EvaluationResult) -> bool:
        """The accuracy of the whole network; returns False for one already written, which is passed over."""
        with self._lock:
            if result.batches in self._results:
                return False
            self._results[result.batches] = result
            self._write_evaluation("cloud", result.batches, result.correct / result.total)
            return True

    def cloud_accuracy(self, batches: int) -> float | None:
        """Return the whole network's accuracy after `batches` batches, if it was evaluated then."""
        with self._lock:
            result = self._results.get(batches)
        return None if result is None else result.correct / result.total

    def accuracies(self) -> dict[str, float]:
        """Return the last known accuracy of each side that has one."""
        with self._lock:
            known = {} if self.edge_accuracy is None else {"edge": self.edge_accuracy}
            if self._results:
                last = self._results[max(self._results)]
                known["cloud"] = last.correct / last.total
            return known

    @property
    def losses_through(self) -> int:
        """The cloud's losses of all batches below this are written."""
        return self._losses

    def mark(self) -> LogMark:
        """Make all lines durable and return the place to come back to."""
        with self._lock:
            return LogMark(
                length=self._file.sync(),
                losses=self._losses,
                results=tuple(asdict(result) for result in self._results.values()),
                edge_accuracy=self.edge_accuracy,
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _epoch(self, seq: int) -> int:
        return seq // self._batches_per_epoch + 1

    def _write_evaluation(self, side: str, batches: int, accuracy: float) -> None:
        self._write("eval", batches - 1, self._epoch(batches - 1), side=side, accuracy=accuracy)

    def _write(self, kind: str, seq: int, epoch: int, **values: Any) -> None:
        event = {"kind": kind, "seq": seq, "epoch": epoch, **values}
        self._file.write(**event)
        self._on_event(event)


def _finite(loss: float | None) -> float | None:
    """Return what JSON can hold: NaN stands for a batch that was skipped, or for a run that diverged."""
    return loss if loss is not None and math.isfinite(loss) else None
