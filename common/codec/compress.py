"""Bytes <-> fewer bytes: zstd, with the true size checked before a byte is expanded.

Packed codes are written by frames.c, where it is compiled, which takes out runs of one byte only. Else, and
for all other bytes, it is the library at level 1, which looks for long repeats only, in a small table: among
the codes of activations a short repeat is chance, and takes more than the entropy coder needs for the same
codes, so that this is faster than plain level 1, and smaller. Who reads a frame need not know who wrote it.

One compressor for each thread: zstandard's objects keep state between calls and may not be shared.
"""

import threading

import zstandard
from torch import Tensor

from common.codec.fused import LARGEST_FRAME, frame_of, is_compiled
from common.errors import CodecError

PARAMETERS = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, hash_log=6)

_local = threading.local()


def compress(data: bytes | memoryview) -> bytes:
    """Return one zstd frame that states its content size."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)
    frame: bytes = _local.compressor.compress(data)
    return frame


def compress_codes(packed: Tensor) -> bytes:
    """Return one zstd frame of packed codes (uint8, contiguous, on the CPU) that states its content size."""
    if is_compiled() and packed.numel() <= LARGEST_FRAME:
        return frame_of(packed)
    return compress(packed.numpy().data.cast("B"))


def decompress(frame: bytes, expected_bytes: int) -> bytes:
    """Expand a frame that must hold exactly `expected_bytes`.

    Raises:
        CodecError: the frame is damaged, or its content has another size or none stated.
    """
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    try:
        stated = zstandard.frame_content_size(frame)
        if stated != expected_bytes:
            raise CodecError(
                f"compressed activations must expand to {expected_bytes} bytes, the frame states {stated}"
            )
        content: bytes = _local.decompressor.decompress(
            frame, max_output_size=expected_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CodecError(f"compressed activations are damaged: {error}") from error
    if len(content) != expected_bytes:
        raise CodecError(f"compressed activations expanded to {len(content)} bytes, not {expected_bytes}")
    return content
