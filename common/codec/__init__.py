"""Activations and images <-> few bytes. What is named here is the facade; the modules are its stages."""

from common.codec.activations import WIDTHS, Packed, decode, encode, packed_bytes
from common.codec.fused import NOT_COMPILED, is_compiled
from common.codec.images import CodedImages, decode_images, encode_images, measure_codings

__all__ = [
    "NOT_COMPILED",
    "WIDTHS",
    "CodedImages",
    "Packed",
    "decode",
    "decode_images",
    "encode",
    "encode_images",
    "is_compiled",
    "measure_codings",
    "packed_bytes",
]
