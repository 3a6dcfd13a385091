"""CIFAR-10 from torchvision's own files, kept once in memory."""

import contextlib
import sys
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10

from common.data.imageset import ArrayImages, Dataset, balanced_subset, require_size
from common.errors import DataError

# Of all 50,000 training images, whatever the limit.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)


def open_cifar10(
    data_dir: Path, train_limit: int | None, test_limit: int | None, image_size: int | None, need_train: bool
) -> Dataset:
    """Open CIFAR-10 below `data_dir`, downloading it there if it is absent; see `open_dataset`."""
    require_size("cifar10", image_size, 32)
    classes, test = _load(data_dir, "test", test_limit)
    train = ArrayImages(np.empty((0, 3, 32, 32), np.uint8), np.empty(0, np.int64))
    if need_train:
        _, train = _load(data_dir, "training", train_limit)
    return Dataset("cifar10", classes, (3, 32, 32), _MEAN, _STD, train, test)


def _load(data_dir: Path, split: str, limit: int | None) -> tuple[tuple[str, ...], ArrayImages]:
    """Return the class names, and the images of `split` that `limit` keeps."""
    files = _read(data_dir, train=split == "training")
    labels = np.asarray(files.targets, np.int64)
    keep = balanced_subset(labels, limit, f"cifar10 {split}")
    # torchvision's NHWC is a view of the NCHW that the files hold; this turns it back without a copy.
    images_NCHW = files.data.transpose(0, 3, 1, 2)
    if len(keep) < len(labels):
        images_NCHW, labels = images_NCHW[keep], labels[keep]
    return tuple(files.classes), ArrayImages(images_NCHW, labels)


def _read(data_dir: Path, train: bool) -> CIFAR10:
    """Read one split, after a download if no file is there."""
    folder = data_dir / CIFAR10.base_folder
    try:
        if not folder.exists():
            _download(data_dir, folder)
        return CIFAR10(root=str(data_dir), train=train, download=False)
    except (RuntimeError, OSError, EOFError) as error:
        raise DataError(
            f"cifar10 in {folder} is incomplete or damaged (its files do not match torchvision's checksums); "
            f"delete {folder} to download it again, or copy the python archive's files there"
        ) from error


def _download(data_dir: Path, folder: Path) -> None:
    """Fetch and unpack the archive with torchvision; what it prints goes to stderr."""
    was_there = data_dir.exists()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            CIFAR10(root=str(data_dir), download=True)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())
        if not was_there:  # it has made the folder first
            with contextlib.suppress(OSError):
                data_dir.rmdir()
        raise DataError(
            f"cifar10 is not in {folder} and cannot be downloaded ({reason}); name the folder that holds "
            f"{folder.name}/ with --data-dir, or get online"
        ) from error
