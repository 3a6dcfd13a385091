"""Any tree of image files, `train/<class>/*` and `val/<class>/*` (or `test/<class>/*`), read one by one."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from common.data.imageset import ArrayImages, Dataset, balanced_subset, statistics
from common.errors import DataError


class FolderImages:
    """Image files, decoded whenever they are asked for.

    Args:
        paths: the files.
        labels: class of each, [N].
        size: (H, W) that every image is brought to.
    """

    def __init__(self, paths: list[str], labels: NDArray[np.int64], size: tuple[int, int]) -> None:
        self._paths, self.labels, self._size = paths, labels, size

    def __len__(self) -> int:
        return len(self._paths)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `indices`, [n, 3, H, W].

        Raises:
            DataError: a file cannot be decoded.
        """
        height, width = self._size
        images_NHWC = np.empty((len(indices), height, width, 3), np.uint8)
        for place, index in enumerate(indices.tolist()):
            images_NHWC[place] = _decode(self._paths[index], self._size)
        return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))


def open_imagefolder(
    data_dir: Path, train_limit: int | None, test_limit: int | None, image_size: int | None, need_train: bool
) -> Dataset:
    """Open the tree at `data_dir`; see `open_dataset`.

    Without a training folder, which only `need_train=False` allows, mean and std are 0 and 1: who then
    needs the real ones keeps them with the trained model.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"images must be at least 1x1 pixel, got an image size of {image_size}")
    test_root = next(
        (root for root in (data_dir / "val", data_dir / "test") if root.is_dir()), data_dir / "val"
    )
    has_train = need_train or (data_dir / "train").is_dir()
    listed = _list(data_dir / "train" if has_train else test_root)
    tested = _list(test_root)
    _require_same_classes(listed, tested)

    size = (image_size, image_size) if image_size else _size_of(listed.samples[0][0])
    test = _part(tested, size, test_limit, "imagefolder test")
    empty = ArrayImages(np.empty((0, 3, *size), np.uint8), np.empty(0, np.int64))
    train = _part(listed, size, train_limit, "imagefolder training") if has_train else empty
    mean, std = statistics(train) if has_train else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Dataset(
        "imagefolder", tuple(listed.classes), (3, *size), mean, std, train if need_train else empty, test
    )


def _list(root: Path) -> ImageFolder:
    """List the classes and files below `root`."""
    try:
        return ImageFolder(str(root))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"imagefolder wants images as train/<class>/* and val/<class>/* (or test/), but {root} cannot be "
            f"used ({reason}); name the folder above train/ with --data-dir"
        ) from error


def _require_same_classes(train: ImageFolder, test: ImageFolder) -> None:
    """Refuse trees whose labels would mean different things."""
    if train.classes == test.classes:
        return
    odd = sorted(set(train.classes) ^ set(test.classes))
    raise DataError(
        f"{train.root} has {len(train.classes)} class folders and {test.root} has {len(test.classes)}; they "
        f"must have the same names, but only one of them has {', '.join(odd[:5])}"
    )


def _part(listed: ImageFolder, size: tuple[int, int], limit: int | None, what: str) -> FolderImages:
    """Return the images that `limit` keeps."""
    labels = np.asarray(listed.targets, np.int64)
    keep = balanced_subset(labels, limit, what)
    return FolderImages([listed.samples[index][0] for index in keep.tolist()], labels[keep], size)


def _size_of(path: str) -> tuple[int, int]:
    """Return (H, W) of the image in a file."""
    height, width, _ = _decode(path, None).shape
    return height, width


def _decode(path: str, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Read one file as RGB, [H, W, 3]; bring it to `size` by its shorter side and a cut from the centre."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no image that can be read ({reason}); mend or remove it") from error
    if size is not None and (image.height, image.width) != size:
        height, width = size
        scale = max(height / image.height, width / image.width)
        resized = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        image = image.resize(resized, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.uint8)
