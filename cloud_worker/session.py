"""One edge run at this cloud: order, duplicates, generations, and when to save.

Every record is applied exactly once, in order of position. What was applied before is ignored, so the first
bytes applied for a position win; a gap is an error. The position, the losses and the results that the edge
has not yet on its disk are saved in the same atomic write as the weights that they belong to. Two checkpoints
are kept, and the edge may forget what the older one holds: a damaged newest one costs nothing.
"""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

import torch

from cloud_worker.ahead import Ready
from cloud_worker.applier import Applier
from cloud_worker.standing import Evaluation, Standing
from cloud_worker.store import SessionFiles
from common.errors import (
    CapacityError,
    CloudError,
    FencedError,
    HeadwaterError,
    SessionError,
    StateLostError,
)
from common.wire.messages import (
    Ack,
    Batch,
    End,
    EvaluationPart,
    Hello,
    Position,
    Record,
    Run,
    Skip,
    Status,
    Welcome,
)
from common.wire.records import max_content_bytes

log = logging.getLogger(__name__)

# Losses that the edge has not yet said to have on its disk; it does at each of its checkpoints.
MAX_LOSSES_KEPT = 1_000_000
TAKEN_OVER = (
    "a newer stream of this session has taken over; this process must stop: another one goes on "
    "with this run directory, or with a copy of it"
)


class Stream(Protocol):
    """What a session knows of the stream that serves it."""

    def end(self, error: HeadwaterError) -> None:
        """End the stream with this error, as soon as the record under way is done."""


class Session:
    """The state of one run, shared by the streams that serve it one after the other.

    Args:
        files: its directory.
        run: what edge and cloud agreed on.
        applier: what its records are applied to, freshly made.
        clock: monotonic seconds.
        checkpoint_every_s: seconds between saves within an epoch.
    """

    def __init__(
        self,
        files: SessionFiles,
        run: Run,
        applier: Applier,
        clock: Callable[[], float],
        checkpoint_every_s: float,
    ) -> None:
        self.run = run
        self._files = files
        self._applier = applier
        self._clock = clock
        self._checkpoint_every_s = checkpoint_every_s
        self._lock = threading.RLock()  # held while a record is applied or the state is saved
        self._stream: Stream | None = None
        self._generation = files.read()[1]
        self._standing = Standing()
        self._number = 0  # of the newest checkpoint
        self._saved_at = clock()
        self._restore()

    # -------------------------------------------------------------- streams

    def attach(self, hello: Hello, stream: Stream, is_wanted: Callable[[], bool] = lambda: True) -> Welcome:
        """Let `stream` serve the session from here on; the one before applies nothing more.

        Args:
            hello: the edge's first message.
            stream: that it came on.
            is_wanted: whether the edge still waits; it may have been a while until it was this stream's turn.

        Raises:
            FencedError: a newer generation has been served.
            SessionError: the edge runs with other settings than the session was opened with.
            StateLostError: the edge no longer has the records that come next.
            CheckpointError: the new generation cannot be written to session.json.
            CloudError: a step has failed half-way; the next stream gets the session from its checkpoint.
        """
        with self._lock:
            if not is_wanted():  # its successor may be served already
                raise CloudError("the edge has left before it was served")
            if self.failed:
                raise CloudError(f"session {hello.session_id} is loaded again after a step that failed")
            if hello.generation < self._generation:
                raise FencedError(
                    f"generation {hello.generation} of session {hello.session_id} came after generation "
                    f"{self._generation}: the run was started again elsewhere, this process must stop"
                )
            _check_same_run(hello.run, self.run)
            check_nothing_lost(self._standing.applied, hello)
            # All that may fail comes first: where the disk is full, the stream before this one goes on.
            if hello.generation > self._generation:
                self._files.write(self.run, hello.generation)
                self._generation = hello.generation
            self._forget(hello.losses_from)
            if self._stream is not None:
                self._stream.end(FencedError(TAKEN_OVER))
            self._stream = stream
            status = self.status()
            return Welcome(
                applied=status.applied,
                durable=status.durable,
                max_record_bytes=self.max_record_bytes,
                results=status.results,
            )

    def check_current(self, stream: Stream) -> None:
        """Raise FencedError unless `stream` is the one that serves the session."""
        if stream is not self._stream:
            raise FencedError(TAKEN_OVER)

    @property
    def max_record_bytes(self) -> int:
        """The largest record that this run can need: one batch at its full width, and some room."""
        return max_content_bytes(self.run, self.run.bits)

    def detach(self, stream: Stream) -> None:
        """Forget `stream`; what it applied stays in memory until it reconnects, and is saved."""
        with self._lock:
            if stream is self._stream:
                self._stream = None
                self.save()

    # -------------------------------------------------------------- records

    def prepare(self, record: Record) -> Ready:
        """Decode a record where there is room; another one may be applied meanwhile."""
        if record.after <= self._standing.applied:  # it will be ignored
            return Ready(record)
        return self._applier.prepare(record)

    def apply(self, ready: Ready, stream: Stream) -> None:
        """Apply one record, unless it has been applied before.

        Raises:
            FencedError: a newer stream has taken over.
            SessionError: records before this one are missing.
            CapacityError: the edge does not say which losses it has on its disk, so that they pile up here.
            CodecError: the activations do not decode; nothing is changed.
            CheckpointError: the state cannot be saved.
        """
        with self._lock:
            self.check_current(stream)
            record = ready.record
            if record.after <= self._standing.applied:
                self._standing.tell(duplicates_ignored=1)
                return
            kept = self._standing.num_losses
            if kept >= MAX_LOSSES_KEPT:
                raise CapacityError(
                    f"this session keeps the losses of {kept} batches, which is its limit; "
                    "the edge must say in losses_from which of them it has on its disk"
                )
            if isinstance(record, Batch):
                self._train(record, ready)
            elif isinstance(record, EvaluationPart):
                self._evaluate(record, ready)
            else:
                self._expect(record.after.batches - 1)
                losses = [math.nan] if isinstance(record, Skip) else []
                self._standing.tell(record.after, losses, batches_skipped=len(losses))
            self._save_if_due(record)

    def _train(self, batch: Batch, ready: Ready) -> None:
        self._expect(batch.seq)
        loss, busy_s = self._applier.train(batch, ready)
        self._standing.tell(batch.after, losses=[loss], busy_s=busy_s, batches_applied=1)

    def _evaluate(self, part: EvaluationPart, ready: Ready) -> None:
        self._expect(part.batches)
        if part.part == 0:
            self._standing.evaluation = Evaluation(part.num_parts)
        else:
            self._standing.evaluation.check(part, expected=self._standing.applied.parts)
        correct, loss_sum = self._applier.evaluate(part, ready)
        self._standing.evaluation.add(correct, loss_sum, len(part.labels))
        results = []
        if part.part + 1 == part.num_parts:
            result = self._standing.evaluation.result(part.batches)
            results.append(result)
            accuracy = result.correct / result.total
            log.info("session %s: accuracy %.1f%% at %s", self._files.name, 100 * accuracy, self.progress)
        self._standing.tell(part.after, results=results)

    def _expect(self, batches: int) -> None:
        expected = self._standing.applied.batches
        if batches != expected:
            raise SessionError(
                f"the edge stands at batch {batches}, the cloud expected batch {expected}; "
                "reconnect to resume there"
            )

    # -------------------------------------------------------------- news

    def ack(self, received_bytes: int, losses_from: int, results_from: int) -> Ack:
        """Return the news for a stream that has told the losses and results before these numbers."""
        return self._standing.ack(received_bytes, losses_from, results_from)

    def gradient(self, seq: int) -> bytes:
        """Return what batch `seq`, which is applied, gave for its activations.

        Raises:
            SessionError: the edge had said that it needs it no more.
            CheckpointError: it is damaged.
        """
        return self._applier.gradient(seq)

    def gradients_through(self, applied: Position) -> int:
        """Return below which batch there are gradients once so much is applied; 0 where none come back."""
        return min(applied.batches, self.run.total_batches) if self.run.gradient_bits else 0

    def note(self, losses_from: int, save: bool, stream: Stream) -> None:
        """Take the edge's note; a save happens once the record under way is done."""
        with self._lock:
            self.check_current(stream)
            self._forget(losses_from)
            if save:
                self._make_durable()

    def _forget(self, losses_from: int) -> None:
        self._standing.forget_losses(losses_from)
        self._applier.forget_gradients(losses_from)

    def status(self) -> Status:
        """Return where the session stands."""
        return self._standing.status(self.run)

    @property
    def finished(self) -> bool:
        """Whether the End record is applied."""
        return self._standing.applied.batches > self.run.total_batches

    @property
    def progress(self) -> str:
        """Where the session stands, for the log; the end of the run is no batch."""
        total = self.run.total_batches
        return f"batch {min(self._standing.applied.batches, total)} of {total}"

    @property
    def failed(self) -> bool:
        """Whether a step ended half-way: what is in memory is no state of the run, and is never saved."""
        return self._applier.failed

    @property
    def is_saved(self) -> bool:
        """Whether the disk has all that this object has."""
        return self._standing.is_saved

    # -------------------------------------------------------------- saving

    def send_away(self) -> None:
        """End the stream with word that the cloud is leaving; the record under way is still applied."""
        stream = self._stream
        if stream is not None:
            stream.end(CloudError("the cloud is shutting down; it can be resumed once it is back"))

    def shut_down(self) -> None:
        """End the stream with word that the cloud is leaving, and make all that is applied durable."""
        with self._lock:
            self.send_away()
            self.save()

    def save(self) -> None:
        """Put all that is applied on the disk; nothing is saved after a step that failed."""
        with self._lock:
            if not self.is_saved and not self.failed:
                self._save()

    def release(self) -> None:
        """Let go of the network, whoever still holds this object; nothing can be applied any more."""
        self._applier.release()

    def _make_durable(self) -> None:
        """Put all that is applied on the disk twice, so that the edge may forget it."""
        while not self._standing.is_durable and not self.failed:
            self._save()

    def _save_if_due(self, record: Record) -> None:
        if isinstance(record, End):
            self._make_durable()
            log.info("session %s is finished and saved: %s", self._files.name, self.progress)
            return
        epoch_ends = isinstance(record, Batch) and (record.seq + 1) % self.run.batches_per_epoch == 0
        if epoch_ends:
            epoch = record.after.batches // self.run.batches_per_epoch
            log.info("session %s: epoch %d is trained, %s", self._files.name, epoch, self.progress)
        evaluated = isinstance(record, EvaluationPart) and record.part + 1 == record.num_parts
        is_time = self._clock() - self._saved_at >= self._checkpoint_every_s
        if epoch_ends or evaluated or is_time:
            self._save()
        else:
            self._applier.spill()

    def _save(self) -> None:
        # Before the state, which says that the run is complete: the next save makes up for a full disk.
        if self.finished:
            summary = {**asdict(self._standing.counters), **asdict(self.run)}
            self._files.finish(self._applier.weights(), summary)
        tensors = self._applier.state()
        tensors["losses"] = torch.tensor(self._standing.losses(), dtype=torch.float64)
        self._files.save_state(self._number + 1, tensors, self._standing.numbers())
        self._number += 1
        self._standing.note_saved()
        self._saved_at = self._clock()
        self._let_go_of_images()

    def _let_go_of_images(self) -> None:
        """Delete the images of a run that is complete, whichever checkpoint it is loaded from."""
        if self.finished and self._standing.is_durable:
            self._applier.remove_images()

    def _restore(self) -> None:
        states = self._files.load_states()
        if not states:
            self._applier.begin()
            return
        older = states[1].numbers["applied"] if len(states) > 1 else [0]
        self._number, tensors, numbers = states[0]
        losses = tensors.pop("losses").tolist()
        self._standing.restore(numbers, losses, durable=Position(*older))
        self._applier.load_state(tensors, self._standing.applied.batches)
        if self.finished:
            # Nothing comes any more after which it would be saved again.
            self._make_durable()
            self._let_go_of_images()
        else:
            self._standing.tell(resumes=1)


def check_nothing_lost(applied: Position, hello: Hello) -> None:
    """Raise StateLostError where the edge no longer has what follows on `applied`, where the cloud is."""
    if applied < hello.kept_from:
        raise StateLostError(
            f"the cloud has this session up to batch {applied.batches}, the edge keeps its "
            f"records from batch {hello.kept_from.batches} on, those between are lost; restore the "
            "cloud's run directory, or start a new run with another --run-dir"
        )


def _check_same_run(edge: Run, cloud: Run) -> None:
    ours, theirs = asdict(cloud), asdict(edge)
    for name, value in ours.items():
        if theirs[name] != value:
            raise SessionError(
                f"the edge runs with {name} {theirs[name]}, this session was opened with {value}; "
                "use a new --run-dir for other settings"
            )
