"""Bytes <-> fewer bytes: zstd, with the true size checked before a byte is expanded.

Level 1 that looks for long repeats only, in a small table: among the codes of activations a short repeat is
chance, and takes more than the entropy coder needs for the same codes. So it is faster than plain level 1,
and smaller.

One compressor for each thread: zstandard's objects keep state between calls and may not be shared.
"""

import threading

import zstandard

from common.errors import CodecError

PARAMETERS = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, hash_log=6)

_local = threading.local()


def compress(data: bytes | memoryview) -> bytes:
    """Return one zstd frame that states its content size."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)
    frame: bytes = _local.compressor.compress(data)
    return frame


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
