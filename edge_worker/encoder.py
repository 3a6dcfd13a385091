"""Encodes beside the training: what one step leaves is coded and offered while the next one runs."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from common.codec import CodedImages, Packed, encode, encode_images, measure_codings
from common.data.datasets import ImageSet
from common.errors import CodecError
from common.wire.messages import Record
from edge_worker.outbox import Outbox

log = logging.getLogger(__name__)

# Of training images, on which their codings are tried.
CODING_SAMPLE_PIXELS = 1 << 19
# Batches that wait while another is encoded: one more could not make it faster, and would take its memory.
DEPTH = 1


Content: TypeAlias = Packed | CodedImages | None  # None for no images at all


class Job(NamedTuple):
    """Activations or images to encode.

    Attributes:
        activations: [N, C, H, W]; nobody changes them any more.
        computed: on CUDA, happens once they are computed.
        record_of: makes the record of what they are encoded to.
    """

    activations: Tensor
    computed: torch.cuda.Event | None
    record_of: Callable[[Content], Record]


class Encoder:
    """A thread between the training loop and the outbox; what is put comes out in the same order.

    Args:
        outbox: where records go; while it is full, putting waits.
        encode: codes one batch [N, C, H, W]; never called with N = 0.
    """

    def __init__(self, outbox: Outbox, encode: Callable[[Tensor], Content]) -> None:
        self._outbox = outbox
        self._encode_one = encode
        self._jobs: queue.Queue[Job | None] = queue.Queue(DEPTH)
        self._failure: Exception | None = None
        self._waited_s = 0.0  # for room in the outbox
        self._stream: torch.cuda.Stream | None = None
        self._thread = threading.Thread(target=self._encode_all, name="encoder", daemon=True)

    def __enter__(self) -> "Encoder":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._outbox.leave()  # whoever waits there would wait for ever
        self._jobs.put(None)
        self._thread.join()

    def put(self, activations: Tensor, record_of: Callable[[Content], Record]) -> float:
        """Have activations encoded and offered; waits while those before take their time.

        Args:
            activations: [N, C, H, W]; not to be changed any more.
            record_of: makes the record of them.

        Returns:
            Seconds that it waited for room in the outbox.

        Raises:
            CodecError: what was put before cannot be encoded.
            HeadwaterError: the outbox takes nothing any more, for this reason.
        """
        started, before_s = time.monotonic(), self._waited_s
        computed = None
        if activations.is_cuda:  # perhaps by kernels that are still to run
            computed = torch.cuda.current_stream(activations.device).record_event()
        self._jobs.put(Job(activations, computed, record_of))
        self._check()
        return min(self._waited_s - before_s, time.monotonic() - started)

    def flush(self) -> float:
        """Wait until all that was put is offered.

        Returns:
            Seconds that it waited for room in the outbox.

        Raises:
            HeadwaterError: as `put` does.
        """
        started, before_s = time.monotonic(), self._waited_s
        self._jobs.join()
        self._check()
        return min(self._waited_s - before_s, time.monotonic() - started)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -------------------------------------------------------------- the encoder's thread

    def _encode_all(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                if self._failure is None:
                    self._waited_s += self._outbox.offer(job.record_of(self._encode(job)))
            except Exception as failure:  # the training thread raises it
                self._failure = failure
            finally:
                del job  # its activations are let go of before the next ones are waited for
                self._jobs.task_done()

    def _encode(self, job: Job) -> Content:
        if not len(job.activations):
            return None
        if job.computed is None:
            return self._encode_one(job.activations)
        # Beside the kernels of the next step, not behind them.
        if self._stream is None:
            self._stream = torch.cuda.Stream(job.activations.device)  # type: ignore[no-untyped-call]
        self._stream.wait_event(job.computed)
        with torch.cuda.stream(self._stream):
            return self._encode_one(job.activations)


def smallest_coding(image_set: ImageSet, batch_size: int) -> str:
    """Return the coding in which images of a set take the fewest bytes, as some of them tell.

    Args:
        image_set: is sampled to try the codings on.
        batch_size: images in a batch; they are coded together.
    """
    height, width = image_set.images(np.arange(1, dtype=np.int64)).shape[2:]
    count = max(1, min(len(image_set), batch_size, CODING_SAMPLE_PIXELS // (height * width)))
    sizes = measure_codings(image_set.images(np.arange(count, dtype=np.int64) * len(image_set) // count))
    told = ", ".join(f"{name} {size / count:.0f}" for name, size in sizes.items())
    log.debug("bytes of an image: %s", told)
    return next(iter(sizes))


def encoding_of(bits: int, coding: str | None) -> Callable[[Tensor], Packed | CodedImages]:
    """Return what codes a batch: of images in `coding`, or without one of activations at so many bits."""
    if coding is None:
        return partial(encode, bits=bits)
    return partial(_encode_images, coding=coding)


def _encode_images(images_NCHW: Tensor, coding: str) -> CodedImages:
    """Encode in this coding, or in zstd where it cannot hold so many images or is of no use for them."""
    images = images_NCHW.numpy()
    try:
        coded = encode_images(images, coding)
    except CodecError:
        return encode_images(images, "zstd")
    return coded if len(coded.data) < images.nbytes else encode_images(images, "zstd")
