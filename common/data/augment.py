"""Random crop and flip, the usual augmentation for small images, derived for every sample by itself.

What happens to a sample depends on the run's seed, the epoch and the sample's index alone: neither on its
batch nor on how often the run was resumed.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from common.seeding import derive, hash64


def augment(
    images_NCHW: NDArray[np.uint8], indices: NDArray[np.int64], seed: int, epoch: int
) -> NDArray[np.uint8]:
    """Shift each image by up to an eighth of its height, zeros coming in, and flip every other one.

    For 32x32 images this is the common "pad 4, crop 32, flip".

    Args:
        images_NCHW: one batch.
        indices: each image's index in its set, [N].
        seed: of the run.
        epoch: from 0.

    Returns:
        New images of the same shape, C-contiguous.
    """
    num, _, height, width = images_NCHW.shape
    pad = height // 8
    bits = hash64(derive(seed, "augment", epoch), indices)
    shifts = np.uint64(2 * pad + 1)
    down = (bits % shifts).astype(np.int64)
    right = ((bits >> np.uint64(20)) % shifts).astype(np.int64)
    flipped = (bits >> np.uint64(63)).astype(bool)

    padded = np.pad(images_NCHW, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    cropped = np.ascontiguousarray(windows[np.arange(num), :, down, right])
    cropped[flipped] = cropped[flipped, :, :, ::-1]
    return cropped
