"""Gradients that a session has sent, kept until the edge has a checkpoint behind them.

An edge that is killed computes its batches again from its checkpoint, and is given the same gradients again.
They wait in memory and go to the disk before the session's next checkpoint, or once they are many, all in one
file: what a kill takes with it, and what lies there of batches behind the checkpoint, is of batches that are
applied again, and give the same.
"""

import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.durable import PARTIAL, make_directory, write_atomic
from common.errors import CapacityError, CheckpointError, SessionError
from common.units import format_size
from common.wire.messages import Run
from common.wire.records import max_content_bytes

# In memory.
SPILL_AFTER_BYTES = 32 << 20
# An edge saves whenever it has had 64 MiB of them, and the two checkpoints that it keeps stand before them.
# Where so many of the largest are more, they are kept.
MAX_BYTES = 512 << 20
MAX_LARGEST = 8
# What a short one takes beside its bytes.
OVERHEAD_BYTES = 256
# Before each: batch, bytes, CRC-32.
_HEAD = struct.Struct("<QQI")
_SUFFIX = ".gradients"
_DIGITS = 16  # of any batch that the protocol has


class Place(NamedTuple):
    """Where one lies on the disk."""

    path: Path
    offset: int
    size: int
    crc: int


def kept_gradients_bytes(run: Run) -> int:
    """Return the disk space that the gradients of a run take at most; 0 where none come back."""
    if not run.gradient_bits:
        return 0
    largest = max_content_bytes(run, run.gradient_bits)
    return min(max(MAX_BYTES, MAX_LARGEST * largest), run.total_batches * (largest + OVERHEAD_BYTES))


class KeptGradients:
    """The gradients of one session, serialised. Written by whoever applies records, read by streams.

    Args:
        directory: where they lie; made with the first file.
        max_bytes: as much is kept without a checkpoint of the edge.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._limit = max_bytes
        self._lock = threading.Lock()  # held for moments only
        self._unsaved: dict[int, bytes] = {}
        self._unsaved_bytes = 0
        self._places: dict[int, Place] = {}
        self._saved_bytes = 0
        self._needed_from = 0

    def restore(self, applied: int) -> None:
        """Go on from a checkpoint that stands after so many batches; what was kept of later ones is dropped.

        Raises:
            CheckpointError: the files cannot be read.
        """
        try:
            for partial in self._directory.glob(f"*{_SUFFIX}{PARTIAL}"):
                partial.unlink()
            for path in sorted(self._directory.glob(f"{'[0-9]' * _DIGITS}{_SUFFIX}")):
                if int(path.stem) >= applied:
                    path.unlink()
                else:  # those of a later file win: they were applied again
                    self._places.update({seq: place for seq, place in _places_in(path) if seq < applied})
        except OSError as error:
            raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
        self._count()

    def check_room(self) -> None:
        """Raise CapacityError where the edge had more than is kept without a checkpoint of its own."""
        kept = self._saved_bytes + self._unsaved_bytes
        if kept >= self._limit:
            raise CapacityError(
                f"the session keeps {format_size(kept)} of gradients, of {format_size(self._limit)} at most; "
                "the edge must say in losses_from which of them it no longer needs"
            )

    def keep(self, seq: int, gradient: bytes) -> None:
        """Keep what batch `seq` gave, unless the edge has said that it needs it no more."""
        if seq < self._needed_from:
            return
        with self._lock:
            self._unsaved[seq] = gradient
            self._unsaved_bytes += len(gradient) + OVERHEAD_BYTES

    def read(self, seq: int) -> bytes:
        """Return what batch `seq` gave.

        Raises:
            SessionError: it is not kept any more.
            CheckpointError: it is damaged.
        """
        with self._lock:
            gradient, place = self._unsaved.get(seq), self._places.get(seq)
        if gradient is not None:
            return gradient
        if place is None:
            raise SessionError(
                f"the gradient of batch {seq} is not kept any more, as the edge had said not to need it; "
                "restore its run directory, or start a new run with another --run-dir"
            )
        try:
            with place.path.open("rb") as file:
                file.seek(place.offset)
                data = file.read(place.size)
        except OSError as error:
            raise CheckpointError(f"cannot read {place.path}: {error.strerror}") from error
        if len(data) != place.size or zlib.crc32(data) != place.crc:
            raise CheckpointError(
                f"{place.path} is damaged: the gradient of batch {seq} does not match its checksum; "
                "start a new run with another --run-dir"
            )
        return data

    def spill(self) -> None:
        """Have all that is kept on the disk, if much waits in memory.

        Raises:
            CheckpointError: the disk does not take it; it stays in memory.
        """
        if self._unsaved_bytes > SPILL_AFTER_BYTES:
            self.save()

    def save(self) -> None:
        """Have all that is kept on the disk; a checkpoint may say afterwards that it was sent.

        Raises:
            CheckpointError: the disk does not take it; it stays in memory.
        """
        if not self._unsaved:
            return
        path = self._directory / f"{min(self._unsaved):0{_DIGITS}d}{_SUFFIX}"
        parts, places, offset = [], {}, 0
        for seq, gradient in sorted(self._unsaved.items()):
            crc = zlib.crc32(gradient)
            parts += [_HEAD.pack(seq, len(gradient), crc), gradient]
            places[seq] = Place(path, offset + _HEAD.size, len(gradient), crc)
            offset += _HEAD.size + len(gradient)
        make_directory(self._directory)
        write_atomic(path, parts)
        with self._lock:
            self._places.update(places)
            self._unsaved = {}
        self._count()

    def forget(self, below: int) -> None:
        """Drop what the edge needs no more.

        Raises:
            CheckpointError: the disk does not let go of a file.
        """
        with self._lock:
            self._needed_from = max(self._needed_from, below)
            self._unsaved = {seq: each for seq, each in self._unsaved.items() if seq >= below}
            before = {place.path for place in self._places.values()}
            self._places = {seq: place for seq, place in self._places.items() if seq >= below}
            for path in before - {place.path for place in self._places.values()}:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise CheckpointError(f"cannot remove {path}: {error.strerror}") from error
        self._count()

    def _count(self) -> None:
        self._unsaved_bytes = sum(len(each) + OVERHEAD_BYTES for each in self._unsaved.values())
        self._saved_bytes = sum(place.size + OVERHEAD_BYTES for place in self._places.values())


def _places_in(path: Path) -> Iterator[tuple[int, Place]]:
    """Yield what a file holds; it was written whole, and each of it is checked when it is read."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset + _HEAD.size <= size:
            file.seek(offset)
            seq, length, crc = _HEAD.unpack(file.read(_HEAD.size))
            yield seq, Place(path, offset + _HEAD.size, length, crc)
            offset += _HEAD.size + length
