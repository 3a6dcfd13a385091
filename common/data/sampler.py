"""The order of training: a pure function of seed, epoch and position, so that any batch can be the first.

Nothing is drawn from a stream: a run that starts at batch k sees what one that started at 0 would see there.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError
from common.seeding import derive, hash64


def batches_per_epoch(num_images: int, batch_size: int) -> int:
    """Return how many batches an epoch has.

    The last, short one counts, unless it has a single image: batch normalisation cannot train on one.

    Raises:
        ConfigError: `batch_size` is below 2.
        DataError: no batch of two images can be made.
    """
    if batch_size < 2:
        raise ConfigError(
            f"--batch-size must be at least 2 (batch normalisation needs two), got {batch_size}"
        )
    if num_images < 2:
        raise DataError(
            f"training needs at least 2 images, got {num_images}; raise --train-limit or add images"
        )
    whole, left = divmod(num_images, batch_size)
    return whole + (left > 1)


def epoch_of(num_images: int, batch_size: int, seq: int) -> int:
    """Return the epoch, from 0, that batch `seq` belongs to."""
    return seq // batches_per_epoch(num_images, batch_size)


def batch_indices(num_images: int, batch_size: int, seed: int, seq: int) -> NDArray[np.int64]:
    """Return which images batch `seq` has, in order, [n]; read-only.

    Every epoch is its own permutation of all images; only an image left over alone is not trained on.
    """
    epoch, position = divmod(seq, batches_per_epoch(num_images, batch_size))
    return _order(num_images, seed, epoch)[position * batch_size : (position + 1) * batch_size]


def first_seen(num_images: int, batch_size: int, seed: int, seq: int) -> NDArray[np.bool_]:
    """Return which images of batch `seq` no batch before it had, [n].

    All of them in the first epoch. Later only the one that was left over alone in every epoch so far.
    """
    indices = batch_indices(num_images, batch_size, seed, seq)
    epoch = epoch_of(num_images, batch_size, seq)
    if epoch == 0:
        return np.ones(len(indices), bool)
    if num_images % batch_size != 1:
        return np.zeros(len(indices), bool)
    left_over = _order(num_images, seed, 0)[-1]
    was_seen = any(_order(num_images, seed, earlier)[-1] != left_over for earlier in range(1, epoch))
    fresh: NDArray[np.bool_] = (indices == left_over) & (not was_seen)
    return fresh


@lru_cache(maxsize=4)  # two epochs meet where prefetching crosses from one into the next
def _order(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return one epoch's permutation: images sorted by 64 derived bits each."""
    keys = hash64(derive(seed, "order", epoch), np.arange(num_images))
    order = np.argsort(keys, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order
