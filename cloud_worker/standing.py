"""What one session has come to: how far it is, and the losses, results and counts that its edge is told."""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import SessionError
from common.metrics import peak_rss_bytes
from common.wire.messages import Ack, Counters, EvaluationPart, EvaluationResult, Position, Run, Status

MAX_LOSSES_PER_ACK = 10_000


@dataclass
class Evaluation:
    """The evaluation under way.

    Attributes:
        num_parts: of how many records it consists.
        correct: images classified rightly so far.
        loss_sum: their cross entropies so far, added up.
        images: how many there were so far.
    """

    num_parts: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    images: int = 0

    def check(self, part: EvaluationPart, expected: int) -> None:
        """Raise SessionError unless `part`, which is not the first one, is the one that is expected."""
        if part.part != expected:
            raise SessionError(
                f"the edge sent part {part.part} of an evaluation, "
                f"the cloud expected part {expected}; reconnect to resume there"
            )
        if part.num_parts != self.num_parts:
            raise SessionError(
                f"the edge says that the evaluation has {part.num_parts} parts, "
                f"with its first part it said {self.num_parts}"
            )

    def add(self, correct: int, loss_sum: float, images: int) -> None:
        """Add what one part came to."""
        self.correct += correct
        self.loss_sum += loss_sum
        self.images += images

    def result(self, batches: int) -> EvaluationResult:
        """Return what the evaluation after so many batches came to."""
        return EvaluationResult(
            batches=batches, correct=self.correct, total=self.images, loss=self.loss_sum / self.images
        )


class Standing:
    """Written by whoever applies records, one at a time; read at any moment by who tells the edge.

    Its lock is held for moments only, so that an ack never waits for a step.

    Attributes:
        evaluation: the one under way; only for whoever applies records.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Where the network stands, where the newest checkpoint does, and where the one before it does.
        self._applied = self._saved = self._durable = Position(0)
        self._first_loss = 0
        self._losses: list[float] = []
        self._results: list[EvaluationResult] = []
        self._counters = Counters()
        self.evaluation = Evaluation()

    @property
    def applied(self) -> Position:
        """Where the network stands."""
        return self._applied

    @property
    def is_saved(self) -> bool:
        """Whether the newest checkpoint has all that is applied."""
        return self._applied == self._saved

    @property
    def is_durable(self) -> bool:
        """Whether the checkpoint before it has, too."""
        return self._durable >= self._applied

    @property
    def num_losses(self) -> int:
        """How many losses are kept, as the edge has not said to have them on its disk."""
        return len(self._losses)

    @property
    def counters(self) -> Counters:
        """What was counted so far."""
        return self._counters

    # -------------------------------------------------------------- what happens

    def tell(
        self,
        applied: Position | None = None,
        losses: Sequence[float] = (),
        results: Sequence[EvaluationResult] = (),
        **counts: float,
    ) -> None:
        """Let acks see that a record was applied, and what came of it.

        Args:
            applied: where the network stands now; None: where it stood.
            losses: one for each batch applied.
            results: of an evaluation that is over.
            counts: what to add to the counters of these names.
        """
        with self._lock:
            self._applied = applied or self._applied
            self._losses += losses
            self._results += results
            more = {name: getattr(self._counters, name) + count for name, count in counts.items()}
            peak = max(peak_rss_bytes(), self._counters.peak_rss_bytes)
            self._counters = replace(self._counters, peak_rss_bytes=peak, **more)

    def forget_losses(self, below: int) -> None:
        """Drop the losses that the edge has on its disk."""
        with self._lock:
            drop = min(max(0, below - self._first_loss), len(self._losses))
            del self._losses[:drop]
            self._first_loss += drop

    def note_saved(self) -> None:
        """Take note that a checkpoint of all this was written; the one before it is the older one now."""
        with self._lock:
            self._durable, self._saved = self._saved, self._applied

    # -------------------------------------------------------------- what is told

    def ack(self, received_bytes: int, losses_from: int, results_from: int) -> Ack:
        """Return the news for a stream that has told the losses and results before these numbers."""
        with self._lock:
            first = max(losses_from, self._first_loss)
            start = first - self._first_loss
            return Ack(
                received_bytes=received_bytes,
                applied=self._applied,
                durable=self._durable,
                first_loss=first,
                losses=tuple(self._losses[start : start + MAX_LOSSES_PER_ACK]),
                results=tuple(self._results[results_from:]),
                counters=self._counters,
            )

    def status(self, run: Run) -> Status:
        """Return where the session of this run stands."""
        with self._lock:
            return Status(
                applied=self._applied,
                durable=self._durable,
                total_batches=run.total_batches,
                finished=self._applied.batches > run.total_batches,
                counters=self._counters,
                results=tuple(self._results),
            )

    # -------------------------------------------------------------- what a checkpoint keeps

    def numbers(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it, but the losses."""
        evaluation = self.evaluation
        return {
            "applied": list(self._applied),
            "first_loss": self._first_loss,
            "results": [asdict(result) for result in self._results],
            "evaluation": [evaluation.num_parts, evaluation.correct, evaluation.loss_sum, evaluation.images],
            "counters": asdict(self._counters),
        }

    def losses(self) -> list[float]:
        """Return the losses that are kept."""
        return list(self._losses)

    def restore(self, numbers: dict[str, Any], losses: list[float], durable: Position) -> None:
        """Take what `numbers` and `losses` gave when the checkpoint was written.

        Args:
            numbers: of the newest checkpoint that is whole.
            losses: of the same one.
            durable: where the one before it stands.
        """
        self._applied = self._saved = Position(*numbers["applied"])
        self._durable = durable
        self._first_loss = numbers["first_loss"]
        self._losses = losses
        self._results = [EvaluationResult(**result) for result in numbers["results"]]
        self.evaluation = Evaluation(*numbers["evaluation"])
        self._counters = Counters(**numbers["counters"])
