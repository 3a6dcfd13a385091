"""Activations <-> few bytes. `encode` and `decode` are the one facade; the other modules are its stages."""

from common.codec.activations import WIDTHS, Packed, decode, encode, packed_bytes

__all__ = ["WIDTHS", "Packed", "decode", "encode", "packed_bytes"]
