"""Per-channel affine quantisation: x ~ low[c] + scale[c] * code, codes of 2, 4 or 8 bits packed into bytes.

Each channel's range over the batch is divided into 2^bits - 1 even steps, and a value goes to the nearest
level. Error bound: |x - decoded| <= scale[c] / 2, plus a few units in the last place of float32 at the
channel's largest magnitude (subtraction, product and sum round too). A channel whose step is below the
smallest normal float32 counts as constant.

Every operation is one correctly rounded float32 operation, in the same order on every device, so that equal
input gives equal bytes on CPU and CUDA. On a CPU the compiled passes of kernels.c read the values once for
the ranges and once for the codes, and write them once. Where there are none, the operations below go block
by block, so that what one leaves is still in the cache for the next.

Shape letters: N batch, C channels, H height, W width; P = N * H * W positions; B bytes of one channel.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from common.codec import fused
from common.codec.pack import pack, unpack
from common.errors import CodecError

# Values worked on at once on a CPU: 128 KiB of float32, a good part of the smallest second-level caches. From
# one more on torch would use several threads, and the encoder's would be in the way of the training's.
BLOCK_VALUES = (1 << 15) - 1
TINY = torch.finfo(torch.float32).tiny


def channel_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Return how many bytes the codes of one channel take, for activations of `shape` (N, C, H, W)."""
    n, _, h, w = shape
    return -(-n * h * w * bits // 8)


def quantise(x_NCHW: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Map each value to the nearest of 2^bits levels of its channel, and pack the codes.

    Args:
        x_NCHW: any floating dtype and memory format, channels_last is fastest; left unchanged.
        bits: 2, 4 or 8.

    Returns:
        packed codes uint8 [C, B] contiguous, low float32 [C], scale float32 [C].

    Raises:
        CodecError: a value is NaN or infinite, or a channel's range does not fit into float32.
    """
    x_PC = _rows(x_NCHW.detach())
    if fused.takes(x_PC) and (made := fused.quantise(x_PC, bits)) is not None:
        return made
    low, scale = _ranges(x_PC, bits)  # raises where it was a range that is not finite
    # A constant channel has scale 0: multiply by 1, all its codes are 0.
    steps_per_unit = torch.where(scale > 0, scale, 1.0).reciprocal()
    return _codes(x_PC, low, steps_per_unit, bits), low, scale


def dequantise(
    packed_CB: Tensor, bits: int, shape: tuple[int, int, int, int], low: Tensor, scale: Tensor
) -> Tensor:
    """Return the float32 values [N, C, H, W] that packed codes stand for, in channels_last.

    Args:
        packed_CB: uint8 [C, B].
        bits: 2, 4 or 8.
        shape: (N, C, H, W).
        low: float32 [C], the value of code 0.
        scale: float32 [C], the step between codes.
    """
    n, c, h, w = shape
    x_PC = torch.empty(n * h * w, c, dtype=torch.float32, device=packed_CB.device)
    write = fused.dequantise if fused.takes(x_PC) else _values
    write(packed_CB.contiguous(), bits, low, scale, x_PC)
    return x_PC.view(n, h, w, c).permute(0, 3, 1, 2)


def _rows(x_NCHW: Tensor) -> Tensor:
    """Return the values as [P, C], without a copy where they are channels_last."""
    return x_NCHW.permute(0, 2, 3, 1).reshape(-1, x_NCHW.shape[1])


def _ranges(x_PC: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return low and scale of each channel, float32 [C]."""
    low, high = _extremes(x_PC)
    # A channel may have zeros of both signs, and which of them is the least is up to the device.
    low = low + 0.0
    span = high - low
    # The sum first, which is one operation; it may be infinite where no span is.
    if not math.isfinite(span.sum()) and not bool(torch.isfinite(span).all()):
        channel = int((~torch.isfinite(span)).nonzero()[0])
        raise CodecError(
            f"activations must be finite, got a range of {span[channel].item()} in channel {channel}; "
            "the training has diverged: lower --lr or raise --warmup"
        )
    # By a tensor: CUDA multiplies by a number's rounded reciprocal where it is to divide by the number.
    scale = span / torch.full_like(span, (1 << bits) - 1)
    return low, torch.where(scale >= TINY, scale, 0.0)


def _extremes(x_PC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each channel, float32 [C]; NaN where one is none."""
    extremes = []
    for start, end in _blocks(x_PC, 1):
        block = x_PC[start:end]
        extremes.append(torch.stack((block.amin(dim=0), -block.amax(dim=0))))
    low, high = torch.stack(extremes).amin(dim=0).float().unbind()
    return low, -high


def _codes(x_PC: Tensor, low: Tensor, steps_per_unit: Tensor, bits: int) -> Tensor:
    """Return the packed codes (x - low) * steps_per_unit, rounded: uint8 [C, B]."""
    is_shifted = bool(low.any())  # mostly not, after a ReLU
    per_byte = 8 // bits
    count, channels = x_PC.shape
    packed_CB = x_PC.new_empty(channels, -(-count // per_byte), dtype=torch.uint8)
    blocks = list(_blocks(x_PC, per_byte))
    buffer_PC = x_PC.new_empty(blocks[0][1], channels, dtype=torch.float32)
    for start, end in blocks:
        block_PC, codes_PC = x_PC[start:end], buffer_PC[: end - start]
        if is_shifted:
            torch.sub(block_PC, low, out=codes_PC).mul_(steps_per_unit)
        else:
            torch.mul(block_PC, steps_per_unit, out=codes_PC)
        # Packed as floats, which takes one operation for each code of a byte.
        packed_BC = pack(_rounded(codes_PC), bits)
        _transpose(packed_BC, packed_CB[:, start // per_byte : -(-end // per_byte)])
    return packed_CB


def _values(packed_CB: Tensor, bits: int, low: Tensor, scale: Tensor, x_PC: Tensor) -> None:
    """Write the values that packed codes uint8 [C, B] stand for into `x_PC`."""
    per_byte = 8 // bits
    for start, end in _blocks(x_PC, per_byte):
        packed_BC = packed_CB.new_empty(-(-end // per_byte) - start // per_byte, x_PC.shape[1])
        _transpose(packed_CB[:, start // per_byte : -(-end // per_byte)], packed_BC)
        x_PC[start:end].copy_(unpack(packed_BC, bits, end - start)).mul_(scale).add_(low)


def _rounded(codes_PC: Tensor) -> Tensor:
    """Round in place, halves to even."""
    if codes_PC.device.type != "cpu":
        return codes_PC.round_()
    # torch would use several threads, however small the block is.
    np.rint(codes_PC.numpy(), out=codes_PC.numpy())
    return codes_PC


def _transpose(source: Tensor, target: Tensor) -> None:
    """Copy a matrix of whole numbers from 0 to 255 into the rows that are its columns, as uint8."""
    if source.device.type == "cpu":  # NumPy does both several times faster than torch
        np.copyto(target.numpy(), source.numpy().astype(np.uint8, copy=False).T)
    else:
        target.copy_(source.t())


def _blocks(x_PC: Tensor, per_byte: int) -> Iterator[tuple[int, int]]:
    """Yield the rows to work on at once, as (start, end); each start is that of a byte."""
    count, channels = x_PC.shape
    rows = count if x_PC.device.type != "cpu" else max(1, BLOCK_VALUES // (channels * per_byte)) * per_byte
    for start in range(0, count, rows):
        yield start, min(count, start + rows)
