"""Batches, loaded ahead by threads and handed over in order.

Threads, not processes: NumPy and PIL release the interpreter's lock where the time goes, and the images
stay in memory once.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.augment import augment
from common.data.imageset import ImageSet
from common.data.sampler import batch_indices, batches_per_epoch, epoch_of, first_seen
from common.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """Images that are worked on together.

    Attributes:
        seq: its number, from 0 over all epochs; in an evaluation its number in the set.
        epoch: from 0; in an evaluation 0.
        images: uint8, [n, 3, H, W], on the CPU; fewer where only those are wanted that were not seen before.
        labels: int64, [n].
        indices: each image's index in its set, int64, [n].
    """

    seq: int
    epoch: int
    images: torch.Tensor
    labels: torch.Tensor
    indices: NDArray[np.int64]


class Loader:
    """The batches of training, augmented, from any one on.

    Args:
        image_set: what is trained on.
        batch_size: images in a batch, at least 2.
        seed: of the run; order and augmentation derive from it.
        num_workers: threads that load; 0 loads in the consumer's own when it asks.
        prefetch: batches loaded or being loaded beyond the one handed out last, which bounds memory.
        once: each image comes in one batch only, the first that has it, and is not augmented.

    Raises:
        ConfigError: a number is out of range.
        DataError: the set has too few images for a batch.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        seed: int,
        num_workers: int = 2,
        prefetch: int = 4,
        once: bool = False,
    ) -> None:
        batches_per_epoch(len(image_set), batch_size)  # raises what is wrong now rather than in a thread
        if num_workers < 0 or prefetch < 1:
            raise ConfigError(
                "a loader needs 0 or more workers and a prefetch of 1 or more, "
                f"got {num_workers} and {prefetch}"
            )
        self._image_set, self._batch_size, self._seed = image_set, batch_size, seed
        self._num_workers, self._prefetch, self._once = num_workers, prefetch, once

    def batches(self, start_seq: int, stop_seq: int) -> Generator[Batch, None, None]:
        """Yield batches `start_seq` to `stop_seq - 1` in order.

        What goes wrong in a thread is raised here, at the batch that it concerns. The threads end with the
        iterator, also when it is closed early.
        """
        if self._num_workers == 0:
            yield from map(self._load, range(start_seq, stop_seq))
            return
        pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="loader")
        try:
            seqs = iter(range(start_seq, stop_seq))
            ahead: deque[Future[Batch]] = deque(
                pool.submit(self._load, seq) for seq in islice(seqs, self._prefetch)
            )
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(self._load, seq) for seq in islice(seqs, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, seq: int) -> Batch:
        """Gather and augment batch `seq`; a pure function, whichever thread runs it when."""
        num_images = len(self._image_set)
        epoch = epoch_of(num_images, self._batch_size, seq)
        indices = batch_indices(num_images, self._batch_size, self._seed, seq)
        if self._once:
            fresh = indices[first_seen(num_images, self._batch_size, self._seed, seq)]
            images_NCHW = self._image_set.images(fresh)
        else:
            images_NCHW = augment(self._image_set.images(indices), indices, self._seed, epoch)
        labels = torch.from_numpy(self._image_set.labels[indices])
        return Batch(seq, epoch, torch.from_numpy(images_NCHW), labels, indices)


def evaluation_batches(image_set: ImageSet, batch_size: int) -> Iterator[Batch]:
    """Yield all images in file order, as they are; the last batch may be short, down to one image.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"an evaluation's batch size must be at least 1, got {batch_size}")
    for part, start in enumerate(range(0, len(image_set), batch_size)):
        indices = np.arange(start, min(start + batch_size, len(image_set)))
        images, labels = image_set.images(indices), image_set.labels[indices]
        yield Batch(part, 0, torch.from_numpy(images), torch.from_numpy(labels), indices)


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device | str
) -> torch.Tensor:
    """Bring uint8 images to `device` and to zero mean and unit spread there, as float32.

    The bytes travel, not the four times larger floats.

    Args:
        images: uint8, [n, 3, H, W].
        mean: of the pixels in [0, 1], for each colour.
        std: likewise.
        device: where the result is wanted.
    """
    floats = images.to(device).to(torch.float32)
    mean_C11 = torch.tensor(mean, dtype=torch.float32, device=floats.device).view(-1, 1, 1)
    std_C11 = torch.tensor(std, dtype=torch.float32, device=floats.device).view(-1, 1, 1)
    return floats.div_(255.0).sub_(mean_C11).div_(std_C11)
