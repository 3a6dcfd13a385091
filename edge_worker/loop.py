"""The training loop: one screen that reads as the experiment. Bytes, retries and files live elsewhere."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from torch import Tensor

from common.codec import CodedImages
from common.data.datasets import Dataset
from common.data.loader import Batch as ImageBatch
from common.data.loader import Loader, evaluation_batches
from common.training import Optimisation
from common.wire.messages import Batch, End, EvaluationPart, Position, Record, Reference
from edge_worker.checkpoints import EdgeCheckpoints
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters, TrainingTime
from edge_worker.encoder import Content, Encoder
from edge_worker.front import Front
from edge_worker.gradients import Gradients
from edge_worker.outbox import Outbox
from edge_worker.runlog import RunLog
from edge_worker.uplink import Uplink


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long the run is.

    Attributes:
        total_batches: in all epochs.
        batches_per_epoch: in one.
    """

    total_batches: int
    batches_per_epoch: int


class TrainingLoop:
    """Trains the front from one batch to the last, and offers what the cloud needs.

    `uplink` is None where the strategy has no cloud; nothing is encoded or offered then.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        plan: Plan,
        dataset: Dataset,
        front: Front,
        optimisation: Optimisation,
        outbox: Outbox,
        uplink: Uplink | None,
        log: RunLog,
        counters: Counters,
        timing: TrainingTime,
        checkpoints: EdgeCheckpoints,
        stop: threading.Event,
        encode: Callable[[Tensor], Content],
        gradients: Gradients | None,
    ) -> None:
        self._config = config
        self._plan = plan
        self._dataset = dataset
        self._front = front
        self._optimisation = optimisation
        self._outbox = outbox
        self._uplink = uplink
        self._log = log
        self._counters = counters
        self._timing = timing
        self._checkpoints = checkpoints
        self._stop = stop
        self._gradients = gradients
        self._encoder = Encoder(outbox, encode) if uplink is not None else None
        self._saved_at = time.monotonic()
        self.done = 0  # batches trained, those of earlier lives included

    def run(self, start: Position) -> bool:
        """Train on from `start`; False where the user stopped the run, its state saved."""
        config = self._config
        self.done = start.batches
        loader = Loader(
            self._dataset.train, config.batch_size, config.seed, config.workers, once=config.sends_once
        )
        batches = loader.batches(start.batches, self._plan.total_batches)
        with ExitStack() as stack:
            stack.callback(batches.close)
            if self._encoder is not None:
                stack.enter_context(self._encoder)
            for batch in batches:
                if not self._step(batch):
                    return False
                self.done = done = batch.seq + 1
                epoch_ends = done % self._plan.batches_per_epoch == 0
                if epoch_ends:
                    self._evaluate(done)
                stopping = self._stop.is_set()
                if epoch_ends or stopping or self._checkpoint_is_due():
                    self._save(done)
                if stopping and done < self._plan.total_batches:
                    return False
        if self._uplink is not None:
            self._outbox.offer(End(self._plan.total_batches))
        return True

    def _step(self, batch: ImageBatch) -> bool:
        """Take one step; False where the run was stopped before its gradient came: it is no step then."""
        started = time.monotonic()
        self._timing.step(batch.epoch, started)
        activations, loss = self._front.step(batch)
        waited_s = 0.0
        if self._encoder is not None:
            # Returns at once while the spool has room: the link never holds the edge up.
            record_of = _reference_of(batch) if self._config.sends_once else _batch_of(batch)
            waited_s = self._encoder.put(activations, record_of)
        if self._encoder is not None and self._gradients is not None:
            waited_s += self._encoder.flush()
            since = time.monotonic()
            gradient = self._gradients.take(batch.seq, self._leaving)
            waited_s += time.monotonic() - since
            if gradient is None:
                return False
            self._front.learn(gradient)
        now = time.monotonic()
        self._counters.add(edge_busy_s=now - started - waited_s, edge_wait_s=waited_s)
        lr = self._optimisation.lr_at(batch.seq) if self._front.trains else None
        self._log.edge_batch(batch.seq, loss, lr)
        if self._encoder is None:
            self._timing.applied(batch.seq + 1, now)
            self._counters.note_applied(*self._timing.epochs)
        self._counters.save(self._timing.value(now), now)
        return True

    def _leaving(self) -> bool:
        self._outbox.check()
        return self._outbox.leaving

    def _evaluate(self, done: int) -> None:
        """Evaluate what the edge has; send what is at the cut where the cloud is to be evaluated too."""
        epoch, last = done // self._plan.batches_per_epoch, done == self._plan.total_batches
        every = self._config.eval_every
        send = self._uplink is not None and (last or (every > 0 and epoch % every == 0))
        if not send and not self._front.classifies:
            return
        size = self._config.batch_size
        num_parts = -(-len(self._dataset.test) // size)
        correct = total = 0
        for part in evaluation_batches(self._dataset.test, size):
            activations, right = self._front.evaluate(part)
            correct, total = correct + (right or 0), total + len(part.labels)
            if send and self._encoder is not None:
                waited_s = self._encoder.put(activations, _part_of(part, done, num_parts))
                self._counters.add(edge_wait_s=waited_s)
        if self._front.classifies:
            self._log.edge_evaluation(done, correct, total)

    def _checkpoint_is_due(self) -> bool:
        if self._gradients is not None and self._gradients.save_is_due:
            return True
        return time.monotonic() - self._saved_at >= self._config.checkpoint_every

    def _save(self, done: int) -> None:
        if self._encoder is not None:
            self._counters.add(edge_wait_s=self._encoder.flush())
        mark = self._log.mark()
        self._counters.save(self._timing.value(time.monotonic()))
        totals = asdict(self._counters.totals())
        # In this order: a checkpoint counts once it is there, and so must what it stands on.
        self._outbox.commit()
        # Without a cloud nothing is offered, and the batch alone says where the run stands.
        position = self._outbox.end if self._uplink is not None else Position(done)
        self._checkpoints.save(position, mark, totals, self._front.state())
        self._saved_at = time.monotonic()
        if self._gradients is not None:
            self._gradients.saved()
        if self._uplink is not None:
            self._uplink.note(self._checkpoints.losses_from)


# Made with what the records need only: the images may go.


def _batch_of(batch: ImageBatch) -> Callable[[Content], Record]:
    seq, labels = batch.seq, tuple(batch.labels.tolist())

    def record_of(content: Content) -> Record:
        assert content is not None  # no batch is empty
        return Batch(seq, content, labels)

    return record_of


def _reference_of(batch: ImageBatch) -> Callable[[Content], Record]:
    seq, labels, images = batch.seq, tuple(batch.labels.tolist()), tuple(batch.indices.tolist())

    def record_of(fresh: Content) -> Record:
        assert fresh is None or isinstance(fresh, CodedImages)
        return Batch(seq, Reference(images, fresh), labels)

    return record_of


def _part_of(part: ImageBatch, done: int, num_parts: int) -> Callable[[Content], Record]:
    seq, labels = part.seq, tuple(part.labels.tolist())

    def record_of(content: Content) -> Record:
        assert content is not None
        return EvaluationPart(done, seq, num_parts, content, labels)

    return record_of
