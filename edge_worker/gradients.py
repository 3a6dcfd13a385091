"""Gradients that came back and wait for their step: the uplink puts them, the training takes them."""

import threading
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from common.codec import Packed, decode
from common.errors import WireError
from common.wire.messages import Chunk, Run
from common.wire.reassembly import Reassembly
from common.wire.records import gradient_from_bytes, max_content_bytes

CPU = torch.device("cpu")
# As many bytes may be had since the last checkpoint before another one is due: the cloud keeps them so long.
SAVE_AFTER_BYTES = 64 << 20
# What may wait here: all that the cloud keeps for an edge that was killed, and some room.
MAX_WAITING_BYTES = 4 * SAVE_AFTER_BYTES
# What a short one takes beside its bytes.
OVERHEAD_BYTES = 256
# As many may wait in any case, however large they are.
MAX_LARGEST = 8


class Gradients:
    """A queue between the uplink and the training loop.

    Args:
        run: what edge and cloud agreed on.
        changed: notified when one has come; whoever waits for other things waits on it, too.
        first: no batch before this one will be trained.
    """

    def __init__(self, run: Run, changed: threading.Condition, first: int) -> None:
        self._run = run
        self._changed = changed
        self._waiting: deque[tuple[Packed, int]] = deque()  # with the bytes that each came in
        self._waiting_bytes = 0
        self._next = first  # the batch whose gradient is taken next
        self._coming = first  # the one whose gradient comes next
        self._unsaved_bytes = 0
        self._reassembly = self._fresh_reassembly()

    def start(self, batches: int) -> None:
        """Note that training goes on with this batch; gradients of those before it are let go."""
        with self._changed:
            self._next = batches

    def restart(self) -> int:
        """Begin a new stream; return the batch from which on it must tell gradients."""
        with self._changed:
            self._reassembly = self._fresh_reassembly()
            self._coming = max(self._coming, self._next)
            return self._coming

    def put(self, chunk: Chunk) -> None:
        """Take a piece of the next gradient.

        Raises:
            WireError: it does not continue what came before, or is no gradient of this run.
        """
        data = self._reassembly.add(chunk)
        if data is None:
            return
        gradient = gradient_from_bytes(data, self._run)
        with self._changed:
            if gradient.seq != self._coming:
                raise WireError(f"the cloud sent the gradient of batch {gradient.seq}, not {self._coming}")
            self._coming += 1
            if gradient.seq < self._next:
                return
            size = len(data) + OVERHEAD_BYTES
            self._waiting_bytes += size
            if self._waiting_bytes > MAX_WAITING_BYTES and len(self._waiting) > MAX_LARGEST:
                raise WireError(
                    f"the cloud sent {self._waiting_bytes} bytes of gradients ahead of their steps"
                )
            self._waiting.append((gradient.content, size))
            self._changed.notify_all()

    def take(self, seq: int, leaving: Callable[[], bool]) -> Tensor | None:
        """Wait for the gradient of batch `seq`, the next one, float32 [N, C, H, W].

        Args:
            seq: counts from where `start` was told, without gaps.
            leaving: asked whenever something has changed; may raise what ends the run.

        Returns:
            The gradient on the CPU, or None where the run is left.

        Raises:
            CodecError: it does not decode.
        """
        with self._changed:
            assert seq == self._next
            self._changed.wait_for(lambda: bool(self._waiting) or leaving())
            if not self._waiting:
                return None
            gradient, size = self._waiting.popleft()
            self._next += 1
            self._waiting_bytes -= size
            self._unsaved_bytes += size
        return decode(gradient, CPU)

    @property
    def save_is_due(self) -> bool:
        """Whether so much was taken since the last checkpoint that the cloud should not keep more."""
        return self._unsaved_bytes > SAVE_AFTER_BYTES

    def saved(self) -> None:
        """Note that a checkpoint has all that was taken."""
        self._unsaved_bytes = 0

    def _fresh_reassembly(self) -> Reassembly:
        return Reassembly(max_content_bytes(self._run, self._run.gradient_bits))
