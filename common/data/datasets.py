"""Data sets by name."""

from collections.abc import Callable
from pathlib import Path

from common.data.cifar10 import open_cifar10
from common.data.imagefolder import open_imagefolder
from common.data.imageset import Dataset, ImageSet
from common.data.synthetic import open_synthetic
from common.errors import DataError

__all__ = ["DATASETS", "Dataset", "ImageSet", "open_dataset"]

DATASETS: dict[str, Callable[[Path, int | None, int | None, int | None, bool], Dataset]] = {
    "cifar10": open_cifar10,
    "imagefolder": open_imagefolder,
    "synthetic": open_synthetic,
}
"""Each name's opener, called with data dir, both limits, image size, and whether train is needed."""


def open_dataset(
    name: str,
    data_dir: Path,
    *,
    train_limit: int | None = None,
    test_limit: int | None = None,
    image_size: int | None = None,
    need_train: bool = True,
) -> Dataset:
    """Open a data set.

    Args:
        name: `cifar10`, `imagefolder` or `synthetic`.
        data_dir: where its files are, or are downloaded to; synthetic needs none.
        train_limit: train on a class-balanced subset of this many images, first in file order.
        test_limit: likewise for testing.
        image_size: height and width in pixels that images are brought to; only imagefolder can.
        need_train: False leaves `train` empty, to save time and memory.

    Raises:
        DataError: unknown name, missing or unusable files, or a limit that the set cannot meet.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; choose one of {', '.join(sorted(DATASETS))}")
    return DATASETS[name](Path(data_dir), train_limit, test_limit, image_size, need_train)
