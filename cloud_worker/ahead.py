"""Decodes the next record of a session while the last one is applied, as far as memory allows."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeGuard

from torch import Tensor

from cloud_worker.back import Back
from cloud_worker.limits import FLOAT_BYTES
from common.codec import CodedImages, Packed
from common.errors import CloudError, HeadwaterError
from common.memory import lack_of_memory_said
from common.wire.messages import Batch, EvaluationPart, Record, Reference

# Of all sessions together. Each has up to two records that lie decoded, one that is applied or waits for its
# turn and the next: with 64 sessions there is room for 2 MiB each.
MAX_BYTES = 256 << 20
# These always find room, however large: a session alone keeps its device busy with two.
MIN_RECORDS = 2


class Ready:
    """A record to be applied next.

    Args:
        record: as it came.
        decoded: its content, or why they do not decode; None where that is left for its turn.
        release: called once nothing of it is needed any more.
    """

    def __init__(
        self, record: Record, decoded: Future[Tensor] | None = None, release: Callable[[], None] | None = None
    ) -> None:
        self.record = record
        self.decoded = decoded
        self._release = release

    def release(self) -> None:
        """Let go of what was decoded, applied or not."""
        self.decoded = None
        if self._release is not None:
            self._release()


class Ahead:
    """Room for decoded records, shared by all sessions of a cloud.

    Args:
        max_bytes: of all that lies decoded, but for the first two records.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = self._records = 0  # that lie decoded
        self._lock = threading.Lock()

    def prepare(self, record: Record, back: Back) -> Ready:
        """Decode a record's content, if there is room; what fails is told when it is its turn."""
        if not isinstance(record, Batch | EvaluationPart) or not _can_be_ahead(record.content):
            return Ready(record)
        size = FLOAT_BYTES * math.prod(record.content.shape)
        if not self._take(size):
            return Ready(record)
        decoded: Future[Tensor] = Future()
        try:
            with lack_of_memory_said():
                decoded.set_result(back.decode(record.content))
        except CloudError:  # there may be enough once no step is under way
            self._give_back(size)
            return Ready(record)
        except HeadwaterError as error:
            decoded.set_exception(error)
        except BaseException:
            self._give_back(size)
            raise
        return Ready(record, decoded, lambda: self._give_back(size))

    def _take(self, size: int) -> bool:
        with self._lock:
            if self._records >= MIN_RECORDS and self._bytes + size > self._max_bytes:
                return False
            self._bytes += size
            self._records += 1
            return True

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._bytes -= size
            self._records -= 1


def _can_be_ahead(content: Packed | CodedImages | Reference) -> TypeGuard[Packed | CodedImages]:
    """Tell whether decoding needs neither the threads that a step uses, nor what the last record brings."""
    if isinstance(content, Packed):
        return content.bits != 32
    return isinstance(content, CodedImages)
