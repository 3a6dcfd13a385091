"""The edge's checkpoints, and which of them a run may resume from.

A checkpoint can be resumed from only where the cloud has durably what was sent before it: whatever waited to
be sent is gone with the process. So the last two are kept, and the newest that the cloud has caught up with.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoint import CheckpointStore
from common.errors import CheckpointError, SessionError
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
        durable: what the cloud had durably when it was written.
        tensors: the front's state; None at the very beginning.
    """

    position: Position = BEGINNING
    mark: LogMark = EMPTY_LOG
    durable: Position = BEGINNING
    tensors: dict[str, Tensor] | None = None


class EdgeCheckpoints:
    """Saves, prunes and finds the edge's checkpoints.

    Args:
        directory: where they are.
        alone: whether there is no cloud to agree with.
    """

    def __init__(self, directory: Path, alone: bool) -> None:
        self._store = CheckpointStore(directory)
        self._alone = alone
        self._kept: dict[int, Checkpoint] = {}  # without tensors
        for number in self._store.numbers():
            try:
                _, numbers = self._store.load(number)
            except CheckpointError as error:
                log.warning("%s; it is passed over", error)
                continue
            self._kept[number] = _from_numbers(numbers)
        self._durable = max((kept.durable for kept in self._kept.values()), default=BEGINNING)

    def newest_up_to(self, durable: Position) -> Checkpoint:
        """Return the newest checkpoint that the cloud has caught up with, or the very beginning.

        Newer ones are removed: they mark places in a log that is about to be cut back and written anew.

        Raises:
            SessionError: the cloud has less than it had confirmed to have.
        """
        if not self._alone and durable < self._durable:
            raise SessionError(
                f"the cloud stands at batch {durable.batches}, but had confirmed to have batch "
                f"{self._durable.batches} durably; restore its run directory, or start with a new --run-dir"
            )
        for number in sorted(self._kept, reverse=True):
            if self._alone or self._kept[number].position <= durable:
                tensors, numbers = self._store.load(number)
                return _from_numbers(numbers, tensors)
            del self._kept[number]
            self._store.keep_only(set(self._kept))
        return Checkpoint()

    def save(self, position: Position, mark: LogMark, durable: Position, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint and drop those that no resume will ask for."""
        numbers = {"position": list(position), "durable": list(durable), "mark": asdict(mark)}
        self._store.save(position.batches, tensors, numbers)
        there = {**self._kept, position.batches: Checkpoint(position=position, mark=mark, durable=durable)}
        self._durable = durable
        caught_up = [n for n, kept in there.items() if self._alone or kept.position <= durable]
        keep = {*sorted(there)[-2:], *sorted(caught_up)[-1:]}
        # Replaced, not changed: the uplink's thread reads it.
        self._kept = {number: kept for number, kept in there.items() if number in keep}
        self._store.keep_only(keep)

    @property
    def losses_from(self) -> int:
        """The cloud's losses below this are on disk, whichever checkpoint is resumed from."""
        marks = [kept.mark.losses for kept in self._kept.values() if kept.position <= self._durable]
        return min(marks, default=0)


def _from_numbers(numbers: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Checkpoint:
    mark = numbers["mark"]
    return Checkpoint(
        position=Position(*numbers["position"]),
        durable=Position(*numbers["durable"]),
        mark=LogMark(**{**mark, "results": tuple(mark["results"])}),
        tensors=tensors,
    )
