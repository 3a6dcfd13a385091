"""Images that the code draws: the same five parts, told apart by which two there are and which is on top.

Every image holds two of five parts (a disc, a ring, a square, a diamond, a cross, each with its own hue),
one above the other, on a tinted and noisy ground with specks of the parts' colours. Only five pairs occur,
so the parts alone narrow ten classes down to two; which of the pair is on top decides between these. A
network that merely collects local features therefore ends near 50 %, and one that relates distant places
passes it: this is what makes the back of a network better than its early exit. Left and right mean
nothing, so images survive being flipped.

Everything is integer arithmetic over derived keys: the same bytes on every platform, and no file.

Shape letters: N images, H height, W width.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.imageset import ArrayImages, Dataset, balanced_subset, require_size, statistics
from common.seeding import derive, hash64

SIZE = 32
"""Height and width of an image in pixels."""

NUM_TRAIN, NUM_TEST = 5000, 1000

_PARTS = ("disc", "ring", "square", "diamond", "cross")
_COLOURS = np.array([[225, 70, 60], [60, 170, 75], [65, 95, 220], [225, 190, 50], [180, 75, 200]], np.int16)
_SPECKS = 6
_TINT = 40  # how far a colour strays from its hue, of 255
_NOISE = 60  # largest change of one pixel, of 255
_CHUNK = 500  # images drawn at once: 500 x 32 x 32 int16 planes stay in the cache

CLASSES = tuple(
    f"{_PARTS[top]} above {_PARTS[bottom]}"
    for pair in range(len(_PARTS))
    for top, bottom in ((pair, (pair + 1) % len(_PARTS)), ((pair + 1) % len(_PARTS), pair))
)


class _Dice:
    """Random integers for images numbered `first`, `first + 1`, ..., by name."""

    def __init__(self, split: str, first: int, stop: int) -> None:
        self._split, self._images = split, np.arange(first, stop, dtype=np.uint64)

    def between(self, low: int, high: int, *name: str | int) -> NDArray[np.int16]:
        """Return integers in [low, high], one for each image, as [N, 1, 1]."""
        bits = hash64(derive(0, "synthetic", self._split, *name), self._images)
        drawn: NDArray[np.int16] = low + (bits % np.uint64(high - low + 1)).astype(np.int16)
        return drawn[:, None, None]

    def noise(self) -> NDArray[np.int16]:
        """Return one integer in [-128, 127] for each pixel and colour, as [N, 3, H, W]."""
        words = 3 * SIZE * SIZE // 8
        counters = self._images[:, None] * np.uint64(words) + np.arange(words, dtype=np.uint64)
        bits = hash64(derive(0, "synthetic", self._split, "noise"), counters).astype("<u8")
        octets = bits.view(np.uint8).reshape(-1, 3, SIZE, SIZE)
        noise: NDArray[np.int16] = octets.astype(np.int16) - np.int16(128)
        return noise


def _mask(
    part: NDArray[np.int16], dy: NDArray[np.int16], dx: NDArray[np.int16], r: NDArray[np.int16]
) -> NDArray[np.bool_]:
    """Return where each image's `part` of half size `r` covers, [N, H, W], given distances to its centre."""
    ay, ax = np.abs(dy), np.abs(dx)
    squared = dy * dy + dx * dx
    disc, square, bar = squared <= r * r, np.maximum(ay, ax) < r, np.minimum(ay, ax) <= 1
    shapes = (disc, disc & (squared > (r - 2) * (r - 2)), square, ay + ax <= r, square & bar)
    return np.choose(part, shapes).astype(bool)


def draw(split: str, first: int, stop: int, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw images `first` to `stop` of `split` for their `labels`; returns [N, 3, H, W]."""
    dice = _Dice(split, first, stop)
    y, x = np.arange(SIZE, dtype=np.int16)[:, None], np.arange(SIZE, dtype=np.int16)
    images = np.empty((stop - first, 3, SIZE, SIZE), np.int16)
    for channel in range(3):
        images[:, channel] = dice.between(70, 170, "ground", channel) + (
            dice.between(-2, 2, "slope y", channel) * (y - 16)
            + dice.between(-2, 2, "slope x", channel) * (x - 16)
        )

    def paint(colour: NDArray[np.integer], mask: NDArray[np.bool_], name: str) -> None:
        for channel in range(3):
            jitter = dice.between(-_TINT, _TINT, name, "tint", channel)
            tint = _COLOURS[colour, channel][:, None, None] + jitter
            np.copyto(images[:, channel], tint, where=mask)

    for speck in range(_SPECKS):
        dy, dx = y - dice.between(1, 30, "speck y", speck), x - dice.between(1, 30, "speck x", speck)
        colour = dice.between(0, len(_PARTS) - 1, "speck colour", speck)[:, 0, 0]
        paint(colour, dy * dy + dx * dx <= dice.between(1, 4, "speck size", speck), f"speck {speck}")
    pair, turned = labels // 2, labels % 2
    middle, half = dice.between(13, 18, "middle"), dice.between(6, 7, "gap")
    for place, side in enumerate((-1, 1)):
        part = (pair + (turned ^ place)) % len(_PARTS)
        dy, dx = y - (middle + np.int16(side) * half), x - dice.between(7, 24, "x", place)
        radius = dice.between(3, 5, "radius", place)
        paint(part, _mask(part.astype(np.int16)[:, None, None], dy, dx, radius), f"part {place}")
    images += dice.noise() * np.int16(_NOISE) // np.int16(128)
    return images.clip(0, 255).astype(np.uint8)


def open_synthetic(
    data_dir: Path, train_limit: int | None, test_limit: int | None, image_size: int | None, need_train: bool
) -> Dataset:
    """Draw the data set; `data_dir` is not looked at.

    Raises:
        DataError: another image size than 32, or a limit above 5,000 training or 1,000 test images.
    """
    require_size("synthetic", image_size, SIZE)
    train = _draw_all("train", NUM_TRAIN if need_train else 0, train_limit if need_train else None)
    test = _draw_all("test", NUM_TEST, test_limit)
    mean, std = statistics(train if need_train else _draw_all("train", NUM_TRAIN, train_limit))
    return Dataset("synthetic", CLASSES, (3, SIZE, SIZE), mean, std, train, test)


def _draw_all(split: str, count: int, limit: int | None) -> ArrayImages:
    """Draw the first images of a split; labels take turns, so that any stretch of ten has each once."""
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    if count:
        what = "synthetic training" if split == "train" else "synthetic test"
        balanced_subset(labels, limit, what)  # DataError where the limit is too large
    labels = labels[: limit if limit is not None else count]
    chunks = [
        draw(split, first, min(first + _CHUNK, len(labels)), labels[first : first + _CHUNK])
        for first in range(0, len(labels), _CHUNK)
    ]
    images = np.concatenate(chunks) if chunks else np.empty((0, 3, SIZE, SIZE), np.uint8)
    return ArrayImages(images, labels)
