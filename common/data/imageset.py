"""What every data set is: images as uint8 and their labels, and a way to take a balanced part of them.

Shape letters: N images in a set, n images in one request, H height, W width.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

STATISTICS_IMAGES = 2000
"""Mean and standard deviation are measured on this many training images, evenly spaced, or on all."""

Colours = tuple[float, float, float]


class ImageSet(Protocol):
    """Labelled images in a fixed order, the order of their files."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, [N]."""

    def __len__(self) -> int: ...

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `indices` as RGB, [n, 3, H, W] and C-contiguous; called from many threads."""


class ArrayImages:
    """Images that lie in memory; each request copies what it asks for.

    Args:
        images_NCHW: all images as RGB; kept, not copied.
        labels: class of each.
    """

    def __init__(self, images_NCHW: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._images_NCHW, self.labels = images_NCHW, labels

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `indices`, [n, 3, H, W]."""
        return np.ascontiguousarray(self._images_NCHW[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set, opened.

    Attributes:
        name: as given to `open_dataset`.
        classes: their names; label k is `classes[k]`.
        image_shape: (3, H, W) of every image.
        mean: of the training pixels in [0, 1], for each of the three colours.
        std: likewise.
        train: what is trained on; empty if it was opened for testing only.
        test: what accuracies are measured on.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: ImageSet
    test: ImageSet

    @property
    def num_classes(self) -> int:
        """How many classes there are, whether or not each occurs."""
        return len(self.classes)


def balanced_subset(labels: NDArray[np.int64], limit: int | None, what: str) -> NDArray[np.int64]:
    """Return which images a limit keeps: as many of each class as possible, first in file order.

    An image's rank is its number within its class. The `limit` lowest ranks stay, the earlier file on a
    tie, so that class counts differ by one at most where no class runs out, and a smaller limit's images
    are among a larger one's.

    Args:
        labels: class of each image, in file order.
        limit: how many images to keep; None keeps all.
        what: names the images in an error, as "cifar10 training".

    Returns:
        Indices into `labels`, ascending.

    Raises:
        DataError: `limit` is below 1 or above the number of images.
    """
    if limit is None:
        return np.arange(len(labels))
    if not 1 <= limit <= len(labels):
        raise DataError(
            f"a limit of {limit} {what} images was asked for, but there are {len(labels)}; "
            f"give a limit from 1 to {len(labels)}, or none"
        )
    by_class = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    _, firsts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(firsts, counts)
    return np.sort(np.argsort(ranks, kind="stable")[:limit])


def require_size(name: str, image_size: int | None, size: int) -> None:
    """Refuse an `image_size` other than the one that `name` has.

    Raises:
        DataError: they differ.
    """
    if image_size not in (None, size):
        raise DataError(
            f"{name} images are {size}x{size}, got an image size of {image_size}; leave the size away, "
            "or use imagefolder, which resizes"
        )


def statistics(image_set: ImageSet) -> tuple[Colours, Colours]:
    """Return mean and standard deviation of the pixels in [0, 1], for each colour.

    The sums are exact integers, so the same images give the same figures anywhere. A colour that never
    varies has the standard deviation 1, so that dividing by it is harmless.
    """
    count = min(len(image_set), STATISTICS_IMAGES)
    chosen = np.arange(count, dtype=np.int64) * len(image_set) // count
    total, squares, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for start in range(0, count, 100):
        images_NCHW = image_set.images(chosen[start : start + 100]).astype(np.int64)
        total += images_NCHW.sum((0, 2, 3))
        squares += (images_NCHW * images_NCHW).sum((0, 2, 3))
        pixels += images_NCHW[:, 0].size
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean * mean, 0.0))
    std = np.where(std > 0, std, 255.0)
    return _colours(mean / 255), _colours(std / 255)


def _colours(values: NDArray[np.float64]) -> Colours:
    red, green, blue = values.tolist()
    return red, green, blue
