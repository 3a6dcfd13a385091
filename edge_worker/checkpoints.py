"""The edge's checkpoints, and which of them a run may resume from.

A checkpoint can be resumed from where the records before it are in the spool, or durable at the cloud. They
are committed to the spool before it is written: its appearance under its name is what makes both count.
The last two are kept, so that a damaged newest one costs some batches that are computed again.
"""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoint import CheckpointStore
from common.errors import CheckpointError
from common.wire.messages import Position
from edge_worker.runlog import LogMark

log = logging.getLogger(__name__)

BEGINNING = Position(0)
EMPTY_LOG = LogMark()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A state of the edge between two batches.

    Attributes:
        position: where the stream stands after all that was offered before.
        mark: where metrics.jsonl stands.
        totals: what the run had cost.
        tensors: the front's state; None at the very beginning.
    """

    position: Position = BEGINNING
    mark: LogMark = EMPTY_LOG
    totals: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] | None = None


class EdgeCheckpoints:
    """Saves, prunes and finds the edge's checkpoints in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = CheckpointStore(directory)
        self._kept: dict[int, Checkpoint] = {}  # without tensors
        damaged = 0
        for number in self._store.numbers():
            try:
                _, numbers = self._store.load(number)
            except CheckpointError as error:
                log.warning("%s; it is passed over", error)
                damaged += 1
                continue
            self._kept[number] = _from_numbers(numbers)
        # Before the first one there is the beginning.
        self._can_begin_anew = len(self._kept) + damaged < 2

    def newest_up_to(self, covered: Position) -> Checkpoint:
        """Return the newest checkpoint whose records are there up to `covered`, or the very beginning.

        Newer ones are removed: they mark places in a log that is about to be cut back and written anew.

        Raises:
            CheckpointError: there is none that can be resumed from.
        """
        there = sorted(self._kept)
        for number in reversed(there):
            if self._kept[number].position <= covered:
                tensors, numbers = self._store.load(number)
                self._store.keep_only(set(self._kept))
                return _from_numbers(numbers, tensors)
            del self._kept[number]
        if not self._can_begin_anew and not there:
            raise CheckpointError(
                f"all checkpoints in {self._directory} are damaged; start a new run with another --run-dir"
            )
        if not self._can_begin_anew:
            raise CheckpointError(
                f"the checkpoints in {self._directory} (of batch {' and '.join(map(str, there))}) stand on "
                f"records that are whole up to batch {covered.batches} only; "
                "start a new run with another --run-dir"
            )
        self._store.keep_only(set())
        return Checkpoint()

    def save(
        self, position: Position, mark: LogMark, totals: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        """Write a checkpoint; the last two are kept."""
        numbers = {"position": list(position), "mark": asdict(mark), "totals": totals}
        self._store.save(position.batches, tensors, numbers)
        there = {**self._kept, position.batches: Checkpoint(position=position, mark=mark, totals=totals)}
        self._can_begin_anew = self._can_begin_anew and len(there) < 2
        # Replaced, not changed: the uplink's thread reads it.
        self._kept = {number: there[number] for number in sorted(there)[-2:]}
        self._store.keep_only(set(self._kept))

    @property
    def newest(self) -> Position:
        """Where the newest one stands that is whole; where there is none, the very beginning."""
        return max((kept.position for kept in self._kept.values()), default=BEGINNING)

    @property
    def losses_from(self) -> int:
        """What the cloud tells of batches below this is needed no more, whichever checkpoint is resumed from.

        Its losses are on disk. A cloud that is ahead may have told more of them than were trained here: their
        gradients are still needed.
        """
        marks = [min(kept.mark.losses, kept.position.batches) for kept in self._kept.values()]
        return 0 if self._can_begin_anew else min(marks, default=0)


def _from_numbers(numbers: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Checkpoint:
    mark = numbers["mark"]
    return Checkpoint(
        position=Position(*numbers["position"]),
        totals=numbers["totals"],
        mark=LogMark(**{**mark, "results": tuple(mark["results"])}),
        tensors=tensors,
    )
