"""Codes of 2, 4 or 8 bits <-> bytes without gaps; the first code sits in the lowest bits of a byte."""

import torch
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack flat uint8 `codes` (each < 2^bits) into ceil(len * bits / 8) bytes, uint8."""
    per_byte = 8 // bits
    if per_byte == 1:
        return codes
    padding = -codes.numel() % per_byte
    if padding:
        codes = torch.nn.functional.pad(codes, (0, padding))
    slots = codes.view(-1, per_byte)
    packed = slots[:, 0].clone()
    for slot in range(1, per_byte):
        packed |= slots[:, slot] << (slot * bits)
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the `count` codes that `packed` (uint8) holds, flat uint8."""
    per_byte = 8 // bits
    if per_byte == 1:
        return packed[:count]
    mask = (1 << bits) - 1
    slots = [(packed >> (slot * bits)) & mask for slot in range(per_byte)]
    return torch.stack(slots, dim=1).flatten()[:count]
