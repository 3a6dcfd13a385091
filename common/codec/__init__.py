"""Activations <-> few bytes. `encode` and `decode` are the one facade; the other modules are its stages."""

from common.codec.activations import WIDTHS, Packed, decode, encode, packed_bytes
from common.codec.fused import is_compiled

__all__ = ["WIDTHS", "Packed", "decode", "encode", "is_compiled", "packed_bytes"]
