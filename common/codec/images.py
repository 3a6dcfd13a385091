"""Images <-> few bytes, and none of them lost: what goes up where the network is cut at its input.

A batch is coded as one picture, its images side by side: a file for each small image would be mostly header,
and what one image teaches the coder serves the next. Shape letters: N batch, C colours, H height, W width.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL import features as pil_features

from common.codec.compress import compress, decompress
from common.errors import CodecError

Pixels = NDArray[np.uint8]

# WebP's own bound for a side, in pixels; a picture of more is not made of it.
MAX_SIDE = 16383


@dataclass(frozen=True, slots=True)
class CodedImages:
    """Encoded images.

    Attributes:
        coding: `png`, `webp` or `zstd`.
        shape: (N, 3, H, W).
        data: one picture of all of them; or one zstd frame of their bytes in the order N, C, H, W.
    """

    coding: str
    shape: tuple[int, int, int, int]
    data: bytes


def encode_images(images_NCHW: Pixels, coding: str) -> CodedImages:
    """Encode images without loss.

    Args:
        images_NCHW: RGB; left unchanged, and nothing of it is shared.
        coding: one of `codings()`.

    Raises:
        CodecError: the coding is unknown, or cannot hold so large a picture.
    """
    if coding not in _ENCODERS:
        raise CodecError(f"images are coded as one of {', '.join(_ENCODERS)}, got {coding!r}")
    n, c, h, w = images_NCHW.shape
    if images_NCHW.dtype != np.uint8 or c != 3 or not images_NCHW.size:
        raise CodecError(
            f"images must be uint8 with shape [N, 3, H, W], got {images_NCHW.dtype} {list(images_NCHW.shape)}"
        )
    return CodedImages(coding, (n, c, h, w), _ENCODERS[coding](images_NCHW))


def decode_images(coded: CodedImages) -> Pixels:
    """Return the images that `coded` holds, uint8 [N, 3, H, W].

    Raises:
        CodecError: the data is damaged, or holds another picture than the shape asks for.
    """
    if coded.coding not in _ENCODERS:
        raise CodecError(f"images are coded as one of {', '.join(_ENCODERS)}, got {coded.coding!r}")
    if coded.coding not in codings():
        raise CodecError(f"images came as {coded.coding}, which the Pillow of this machine does not read")
    if coded.coding == "zstd":
        raw = decompress(coded.data, math.prod(coded.shape))
        return np.frombuffer(bytearray(raw), np.uint8).reshape(coded.shape)  # one that may be written to
    return _from_mosaic(_open_picture(coded), coded.shape)


def codings() -> tuple[str, ...]:
    """Return the codings that this machine has: some builds of Pillow lack WebP."""
    return tuple(name for name in _ENCODERS if name != "webp" or pil_features.check("webp"))


def measure_codings(sample_NCHW: Pixels) -> dict[str, int]:
    """Return what the images take in each coding that can hold them, in bytes, the fewest first."""
    sizes = {}
    for coding in codings():
        try:
            sizes[coding] = len(encode_images(sample_NCHW, coding).data)
        except CodecError:  # too large a picture
            continue
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


# ---------------------------------------------------------------- one picture of many images


def _grid(num: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of a picture of `num` images that is as square as can be."""
    columns = max(1, min(num, math.isqrt(num * height // width)))
    return -(-num // columns), columns


def _to_mosaic(images_NCHW: Pixels) -> Pixels:
    """Lay images side by side, row by row; [height, width, 3], with black where none is left."""
    n, c, h, w = images_NCHW.shape
    rows, columns = _grid(n, h, w)
    cells = np.zeros((rows * columns, h, w, c), np.uint8)
    cells[:n] = images_NCHW.transpose(0, 2, 3, 1)
    mosaic = cells.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4)
    pixels: Pixels = mosaic.reshape(rows * h, columns * w, c)
    return pixels


def _from_mosaic(mosaic: Pixels, shape: tuple[int, int, int, int]) -> Pixels:
    n, c, h, w = shape
    rows, columns = _grid(n, h, w)
    cells: Pixels = mosaic.reshape(rows, h, columns, w, c).transpose(0, 2, 4, 1, 3)
    images: Pixels = np.ascontiguousarray(cells.reshape(rows * columns, c, h, w)[:n])
    return images


def _picture(images_NCHW: Pixels, **options: Any) -> bytes:
    mosaic = _to_mosaic(images_NCHW)
    if max(mosaic.shape) > MAX_SIDE:
        raise CodecError(
            f"{len(images_NCHW)} images make a picture of {mosaic.shape[1]}x{mosaic.shape[0]} pixels, "
            f"its sides may have {MAX_SIDE}; use a smaller --batch-size"
        )
    file = io.BytesIO()
    Image.fromarray(mosaic).save(file, **options)
    return file.getvalue()


def _open_picture(coded: CodedImages) -> Pixels:
    """Return a picture's pixels, [height, width, 3]; size and kind are checked before they are decoded."""
    n, _, h, w = coded.shape
    rows, columns = _grid(n, h, w)
    wanted = (columns * w, rows * h)
    found = _SIZES[coded.coding](coded.data)
    if found != wanted:
        got = "no such picture" if found is None else f"one of {found[0]}x{found[1]}"
        raise CodecError(
            f"{n} images of {w}x{h} make a {coded.coding} picture of {wanted[0]}x{wanted[1]}, got {got}"
        )
    try:
        with Image.open(io.BytesIO(coded.data), formats=[coded.coding.upper()]) as picture:
            mode, pixels = picture.mode, np.array(picture)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they come to
        size = len(coded.data)
        raise CodecError(f"a {coded.coding} picture of {size} bytes is damaged: {error!r}") from error
    if mode != "RGB" or pixels.shape != (rows * h, columns * w, 3):
        raise CodecError(f"images are coded as an RGB picture, got {mode} of shape {list(pixels.shape)}")
    return pixels


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height as a PNG begins (its IHDR comes first); None where this is none."""
    if len(data) < 24 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height as a lossless WebP begins (14 bits each, less one); None where this is none."""
    if len(data) < 25 or data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8L" or data[20] != 0x2F:
        return None
    bits = int.from_bytes(data[21:25], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


# Of the picture, before Pillow makes room for it.
_SIZES: dict[str, Callable[[bytes], tuple[int, int] | None]] = {"png": _png_size, "webp": _webp_size}

_ENCODERS: dict[str, Callable[[Pixels], bytes]] = {
    "png": lambda images: _picture(images, format="PNG", compress_level=6),
    # A method above takes three times as long for 2 % fewer bytes.
    "webp": lambda images: _picture(images, format="WEBP", lossless=True, quality=25, method=3),
    "zstd": lambda images: compress(np.ascontiguousarray(images).data.cast("B")),
}
