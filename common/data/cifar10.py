"""CIFAR-10 as torchvision fetches it, by its addresses, names and checksums, kept once in memory."""

import contextlib
import hashlib
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive

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
    batches, classes = _read(data_dir, CIFAR10.train_list if split == "training" else CIFAR10.test_list)
    labels = np.concatenate([np.asarray(batch["labels"], np.int64) for batch in batches])
    keep = balanced_subset(labels, limit, f"cifar10 {split}")
    images_NCHW = np.empty((len(keep), 3, 32, 32), np.uint8)
    start = filled = 0
    while batches:  # each is let go of once its images are copied
        rows = batches.pop(0)["data"].reshape(-1, 3, 32, 32)
        wanted = keep[(start <= keep) & (keep < start + len(rows))] - start
        # Else NumPy would fill a copy first.
        np.take(rows, wanted, axis=0, out=images_NCHW[filled : filled + len(wanted)], mode="clip")
        start, filled = start + len(rows), filled + len(wanted)
    return classes, ArrayImages(images_NCHW, labels[keep])


def _read(data_dir: Path, names: list[list[str]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the batches in these files and the class names, after a download if no file is there."""
    folder = data_dir / CIFAR10.base_folder
    try:
        if not folder.exists():
            _download(data_dir, folder)
        batches = [_unpickled(folder / name, md5) for name, md5 in names]
        about = _unpickled(folder / CIFAR10.meta["filename"], CIFAR10.meta["md5"])
        return batches, tuple(about[CIFAR10.meta["key"]])
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"cifar10 in {folder} is incomplete or damaged (its files do not match torchvision's checksums); "
            f"delete {folder} to download it again, or copy the python archive's files there"
        ) from error


class OnlyArrays(pickle.Unpickler):
    """Reads what CIFAR-10 is made of, plain values and NumPy arrays; a pickle may call nothing else."""

    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few names; raises UnpicklingError for any other."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image needs")
        return super().find_class(module, name)


def _unpickled(path: Path, md5: str) -> dict[str, Any]:
    data = path.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} is not what the archive has")
    found: dict[str, Any] = OnlyArrays(io.BytesIO(data), encoding="latin1").load()
    return found


def _download(data_dir: Path, folder: Path) -> None:
    """Fetch and unpack the archive as torchvision does; what it prints goes to stderr."""
    was_there = data_dir.exists()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            download_and_extract_archive(
                CIFAR10.url, str(data_dir), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5
            )
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())
        if not was_there:  # it has made the folder first
            with contextlib.suppress(OSError):
                data_dir.rmdir()
        raise DataError(
            f"cifar10 is not in {folder} and cannot be downloaded ({reason}); name the folder that holds "
            f"{folder.name}/ with --data-dir, or get online"
        ) from error
