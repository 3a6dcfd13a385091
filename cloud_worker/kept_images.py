"""Images that a session keeps so that each goes up once: one file, each image checked whenever it is read.

The file has a place for every image of the run, by its number, and grows as they come (holes take no disk).
Which of them are there, and the CRC-32 of each, is part of the session's checkpoint: what a kill has written
behind it counts for nothing, and is written again.
"""

import errno
import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.codec import decode_images
from common.durable import cannot_write, sync_directory
from common.errors import CheckpointError, WireError
from common.wire.messages import Reference, Run

Pixels = NDArray[np.uint8]
ABSENT = -1
STATE = "kept_images"


def kept_images_bytes(run: Run) -> int:
    """Return the disk space that all images of a run take, with their sums in two checkpoints."""
    return run.kept_images * (int(np.prod(run.input_shape)) + 2 * np.dtype(np.int64).itemsize)


class KeptImages:
    """The images of one session.

    Args:
        path: the file; made with the first image.
        num_images: of the run; they have the numbers below.
        shape: (C, H, W) of each.
    """

    def __init__(self, path: Path, num_images: int, shape: tuple[int, ...]) -> None:
        self._path = path
        self._shape = shape
        self._image_bytes = int(np.prod(shape))
        self._sums = np.full(num_images, ABSENT, np.int64)
        self._taken: dict[int, int] = {}  # sums of what the batch under way brought

    def take(self, reference: Reference) -> Pixels:
        """Write what is fresh, and return all that is referred to, uint8 [N, C, H, W].

        What is fresh counts as kept once `commit` says that its batch was applied.

        Raises:
            WireError: fresh are not just those that are not kept yet.
            CodecError: they do not decode.
            CheckpointError: the disk is full, or an image on it is damaged.
        """
        numbers = np.array(reference.images, np.int64)
        absent = numbers[self._sums[numbers] == ABSENT]
        num_fresh = 0 if reference.fresh is None else reference.fresh.shape[0]
        if num_fresh != len(absent):
            raise WireError(
                f"the batch has {len(absent)} images that are not kept yet, and brings {num_fresh} of them"
            )
        self._taken = {}
        if reference.fresh is not None:
            self._taken = self._write(absent, decode_images(reference.fresh))
        return self._read(numbers)

    def commit(self) -> None:
        """Count as kept what the last `take` wrote: its batch is applied."""
        self._sums[list(self._taken)] = list(self._taken.values())
        self._taken = {}

    def sync(self) -> None:
        """Have all that was kept on the disk; a checkpoint may name it afterwards."""
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            sync_directory(self._path.parent)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def state(self) -> dict[str, Tensor]:
        """Return the CRC-32 of each image, int64 [num_images], -1 for what is not kept yet; else nothing."""
        return {STATE: torch.from_numpy(self._sums.copy())} if len(self._sums) else {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` returned, which is taken out of `tensors`.

        Raises:
            CheckpointError: it is not there, or of other images.
        """
        if not len(self._sums):
            return
        sums = tensors.pop(STATE, torch.empty(0))
        if sums.shape != self._sums.shape or sums.dtype != torch.int64:
            raise CheckpointError(
                f"the checkpoint tells which of {len(sums)} images are kept, the run has {len(self._sums)}"
            )
        self._sums = sums.numpy().copy()

    def remove(self) -> None:
        """Delete the images: the run is over."""
        with suppress(OSError):  # it only takes room
            self._path.unlink(missing_ok=True)

    def _write(self, numbers: NDArray[np.int64], images: Pixels) -> dict[int, int]:
        """Put images in their places; return the sum of each."""
        # Written, not mapped: a full disk is an error then, not a signal.
        try:
            with open(self._path, "r+b" if self._path.exists() else "w+b", buffering=0) as file:
                for number, image in zip(numbers.tolist(), images, strict=True):
                    file.seek(number * self._image_bytes)
                    if file.write(image.tobytes()) != self._image_bytes:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return {
            number: zlib.crc32(image.tobytes())
            for number, image in zip(numbers.tolist(), images, strict=True)
        }

    def _read(self, numbers: NDArray[np.int64]) -> Pixels:
        images = np.empty((len(numbers), self._image_bytes), np.uint8)
        try:
            with open(self._path, "rb", buffering=0) as file:
                for row, number in zip(images, numbers.tolist(), strict=True):
                    file.seek(number * self._image_bytes)
                    data, crc = file.read(self._image_bytes), self._taken.get(number, self._sums[number])
                    if len(data) != self._image_bytes or zlib.crc32(data) != crc:
                        raise CheckpointError(
                            f"{self._path} is damaged: image {number} does not match its checksum; "
                            "start a new run with another --run-dir"
                        )
                    row[:] = np.frombuffer(data, np.uint8)
        except OSError as error:
            raise CheckpointError(f"cannot read {self._path}: {error.strerror}") from error
        return images.reshape(-1, *self._shape)
