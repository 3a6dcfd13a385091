"""What a record does to a session's network: a step or an evaluation, and what must be kept for them.

Knows nothing of order, streams or saving: the session calls it for each record once, in order.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from cloud_worker.ahead import Ahead, Ready
from cloud_worker.back import Back
from cloud_worker.kept_gradients import KeptGradients, kept_gradients_bytes
from cloud_worker.kept_images import KeptImages
from cloud_worker.store import SessionFiles
from cloud_worker.turns import Turns
from common.checkpoint import tensor_file
from common.codec import encode
from common.data.augment import augment
from common.durable import Piece
from common.errors import CodecError
from common.memory import lack_of_memory_said
from common.wire.messages import Batch, EvaluationPart, Gradient, Record, Reference, Run
from common.wire.records import gradient_to_bytes


class Applier:
    """The back of one run, with the images and the gradients that are kept beside it.

    Args:
        files: the session's directory.
        run: what edge and cloud agreed on.
        back: the network's back, freshly built.
        turns: takes the steps, as sessions on one device do in turn.
        ahead: has room for records that are decoded before it is their turn.
        clock: monotonic seconds.

    Attributes:
        failed: a step ended half-way, so that what is in memory is no state of the run.
    """

    def __init__(
        self,
        files: SessionFiles,
        run: Run,
        back: Back,
        turns: Turns,
        ahead: Ahead,
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._back = back
        self._turns = turns
        self._ahead = ahead
        self._clock = clock
        self._images = KeptImages(files.images_file, run.kept_images, run.input_shape)
        self._gradients = KeptGradients(files.gradients, kept_gradients_bytes(run))
        self.failed = False

    # -------------------------------------------------------------- records

    def prepare(self, record: Record) -> Ready:
        """Decode a record where there is room; another one may be applied meanwhile."""
        return self._ahead.prepare(record, self._back)

    def train(self, batch: Batch, ready: Ready) -> tuple[float, float]:
        """Take the step of a batch; return its loss, and the seconds in which it was this run's turn.

        Raises:
            CapacityError: gradients pile up here, as the edge does not say which of them it needs no more.
            CodecError, WireError, CheckpointError: its content cannot be had; nothing is changed.
            CloudError: there is not enough memory for the step; others may give some back.
        """
        if self._run.gradient_bits:
            self._gradients.check_room()
        return self._turns.take(lambda: self._train(batch, ready))

    def _train(self, batch: Batch, ready: Ready) -> tuple[float, float]:
        started = self._clock()
        with lack_of_memory_said():
            x_NCHW = self._inputs(batch, ready)  # refused before anything is changed
            try:
                loss = self._step(batch, x_NCHW)
            except BaseException:
                self.failed = True
                raise
        self._images.commit()
        return loss, self._clock() - started

    def _step(self, batch: Batch, x_NCHW: Tensor) -> float:
        if not self._run.gradient_bits:
            return self._back.train(batch.seq, x_NCHW, batch.labels)
        x_NCHW.requires_grad_()
        loss = self._back.train(batch.seq, x_NCHW, batch.labels)
        assert x_NCHW.grad is not None  # the loss depends on it
        try:
            gradient = Gradient(batch.seq, encode(x_NCHW.grad, self._run.gradient_bits))
        except CodecError as error:
            raise CodecError(
                f"the gradient of batch {batch.seq} is not finite; the training has diverged: lower --lr"
            ) from error
        self._gradients.keep(batch.seq, gradient_to_bytes(gradient))
        return loss

    def evaluate(self, part: EvaluationPart, ready: Ready) -> tuple[int, float]:
        """Return how many images of a part are classified rightly, and the sum of their cross entropies.

        Raises:
            CodecError: its content does not decode.
            CloudError: there is not enough memory.
        """
        return self._turns.take(lambda: self._classify(part, ready))

    def _classify(self, part: EvaluationPart, ready: Ready) -> tuple[int, float]:
        with lack_of_memory_said():
            return self._back.evaluate(self._inputs(part, ready), part.labels)

    def _inputs(self, record: Batch | EvaluationPart, ready: Ready) -> Tensor:
        if ready.decoded is not None:
            return ready.decoded.result()
        if not isinstance(record.content, Reference):
            return self._back.decode(record.content)
        assert isinstance(record, Batch)  # an evaluation refers to nothing
        # As the edge does where it resends them: a function of seed, epoch and each image's number.
        epoch = record.seq // self._run.batches_per_epoch
        numbers = np.array(record.content.images, np.int64)
        images_NCHW = augment(self._images.take(record.content), numbers, self._run.seed, epoch)
        return self._back.normalise(images_NCHW)

    # -------------------------------------------------------------- gradients

    def gradient(self, seq: int) -> bytes:
        """Return what batch `seq`, which is applied, gave for its activations.

        Raises:
            SessionError: the edge had said that it needs it no more.
            CheckpointError: it is damaged.
        """
        return self._gradients.read(seq)

    def forget_gradients(self, below: int) -> None:
        """Drop those that the edge needs no more.

        Raises:
            CheckpointError: the disk does not let go of a file.
        """
        self._gradients.forget(below)

    # -------------------------------------------------------------- what a checkpoint keeps

    def spill(self) -> None:
        """Have gradients on the disk before the next checkpoint, if they take much memory.

        Raises:
            CheckpointError: the disk is full.
        """
        self._gradients.spill()

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs, once all that it refers to is on the disk.

        Raises:
            CheckpointError: the disk is full.
        """
        self._images.sync()
        self._gradients.save()
        return {**self._back.trainee.state(), **self._images.state()}

    def begin(self) -> None:
        """Drop what lies there without a checkpoint: a killed cloud's, which had none yet.

        Raises:
            CheckpointError: the disk does not let go of it.
        """
        self._gradients.restore(0)

    def load_state(self, tensors: dict[str, Tensor], applied: int) -> None:
        """Go on from what `state` returned after so many batches.

        Raises:
            CheckpointError: it is of another run, or what is kept beside it cannot be read.
        """
        self._images.load_state(tensors)
        self._back.trainee.load_state(tensors)
        self._gradients.restore(applied)

    def weights(self) -> Iterator[Piece]:
        """Yield the back's weights as a safetensors file, under the whole network's own names."""
        return tensor_file(self._back.state_dict())

    def remove_images(self) -> None:
        """Delete the images that were kept: the run is over."""
        self._images.remove()

    def release(self) -> None:
        """Let go of the network, whoever still holds this object; nothing can be applied any more."""
        del self._back
