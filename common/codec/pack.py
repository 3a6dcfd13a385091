"""Codes of 2, 4 or 8 bits <-> bytes without gaps; the first code sits in the lowest bits of a byte.

Codes come as rows, and the codes of one column share its bytes: what lies side by side in memory is worked on
at once, whatever the number of bits.
"""

import torch
from torch import Tensor


def pack(codes_PC: Tensor, bits: int) -> Tensor:
    """Pack the columns of `codes_PC` (each code < 2^bits) into ceil(P * bits / 8) bytes.

    Args:
        codes_PC: [P, C], contiguous, of any dtype that holds 0 to 255.
        bits: 2, 4 or 8.

    Returns:
        Bytes [ceil(P * bits / 8), C], of the same dtype; the last row is filled up with zeros.
    """
    per_byte = 8 // bits
    missing = -len(codes_PC) % per_byte
    if missing:
        codes_PC = torch.nn.functional.pad(codes_PC, (0, 0, 0, missing))
    slots = codes_PC.view(-1, per_byte, codes_PC.shape[1])
    packed = slots[:, -1]
    for slot in reversed(range(per_byte - 1)):
        packed = torch.add(slots[:, slot], packed, alpha=1 << bits)
    return packed


def unpack(packed_BC: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of each column of `packed_BC` (uint8 [B, C]): uint8 [count, C]."""
    per_byte = 8 // bits
    if per_byte == 1:
        return packed_BC[:count]
    mask = (1 << bits) - 1
    rows, columns = packed_BC.shape
    codes = packed_BC.new_empty(rows, per_byte, columns)
    for slot in range(per_byte):
        torch.bitwise_and(packed_BC >> (slot * bits), mask, out=codes[:, slot])
    return codes.view(-1, columns)[:count]
