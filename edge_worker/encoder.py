"""Encodes beside the training: what one step leaves is packed and offered while the next one runs."""

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from common.codec import Packed, encode
from common.wire.messages import Record
from edge_worker.outbox import Outbox

# Batches that wait while another is encoded: one more could not make it faster, and would take its memory.
DEPTH = 1


class Job(NamedTuple):
    """Activations to encode.

    Attributes:
        activations: [N, C, H, W]; nobody changes them any more.
        record_of: makes the record of what they are encoded to.
    """

    activations: Tensor
    record_of: Callable[[Packed], Record]


class Encoder:
    """A thread between the training loop and the outbox; what is put comes out in the same order.

    Args:
        outbox: where records go; while it is full, putting waits.
        bits: of one activation.
    """

    def __init__(self, outbox: Outbox, bits: int) -> None:
        self._outbox = outbox
        self._bits = bits
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

    def put(self, activations: Tensor, record_of: Callable[[Packed], Record]) -> float:
        """Have activations encoded and offered; waits while those before take their time.

        Args:
            activations: floating point [N, C, H, W], computed by now; not to be changed any more.
            record_of: makes the record of them.

        Returns:
            Seconds that it waited for room in the outbox.

        Raises:
            CodecError: activations that were put before cannot be encoded.
            HeadwaterError: the outbox takes nothing any more, for this reason.
        """
        started, before_s = time.monotonic(), self._waited_s
        self._jobs.put(Job(activations, record_of))
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

    def _encode(self, job: Job) -> Packed:
        if not job.activations.is_cuda:
            return encode(job.activations, self._bits)
        # Beside the kernels of the next step, not behind them.
        if self._stream is None:
            self._stream = torch.cuda.Stream(job.activations.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            return encode(job.activations, self._bits)
