"""The codec's facade: a batch of activations <-> what the wire carries.

2, 4 and 8 bits go through quantise (which packs) and compress; 32 bits are the float32 values themselves,
compressed. Shape letters: N batch, C channels, H height, W width.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.codec.compress import compress, compress_codes, decompress
from common.codec.quantise import channel_bytes, dequantise, quantise
from common.errors import CodecError

WIDTHS = (2, 4, 8, 32)

if sys.byteorder != "little":
    raise ImportError("headwater's wire is little-endian and this machine is not")


@dataclass(frozen=True, slots=True)
class Packed:
    """Encoded activations.

    Attributes:
        bits: 2, 4, 8 or 32.
        shape: (N, C, H, W).
        low: value of code 0 for each channel, float32 [C]; empty at 32 bits.
        scale: step between codes for each channel, float32 [C]; empty at 32 bits.
        data: one zstd frame of `packed_bytes(shape, bits)` bytes.
    """

    bits: int
    shape: tuple[int, int, int, int]
    low: NDArray[np.float32]
    scale: NDArray[np.float32]
    data: bytes


def packed_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Return the size of activations of `shape` (N, C, H, W) before compression, in bytes."""
    if bits == 32:
        return 4 * math.prod(shape)
    return shape[1] * channel_bytes(shape, bits)


def encode(x_NCHW: Tensor, bits: int) -> Packed:
    """Encode activations; the input is left unchanged and nothing of it is shared.

    Raises:
        CodecError: a width other than 2, 4, 8 or 32, another number of dimensions than 4, no values at
            all, or a value that is NaN or infinite.
    """
    if bits not in WIDTHS:
        raise CodecError(f"activations are coded with one of {WIDTHS} bits, got {bits}")
    if x_NCHW.dim() != 4 or x_NCHW.numel() == 0:
        raise CodecError(f"activations must have shape [N, C, H, W], got {list(x_NCHW.shape)}")
    n, c, h, w = x_NCHW.shape
    if bits == 32:
        values = x_NCHW.detach().float().contiguous()
        if not bool(torch.isfinite(values).all()):
            raise CodecError("activations must be finite; the training has diverged: lower --lr")
        none = np.empty(0, dtype=np.float32)
        return Packed(32, (n, c, h, w), none, none, compress(_on_host(values).numpy().data.cast("B")))
    packed_CB, low, scale = quantise(x_NCHW, bits)
    data = compress_codes(_on_host(packed_CB))
    return Packed(bits, (n, c, h, w), low.cpu().numpy(), scale.cpu().numpy(), data)


def decode(packed: Packed, device: torch.device) -> Tensor:
    """Return the activations that `packed` holds, float32 [N, C, H, W] on `device`.

    Raises:
        CodecError: the data does not expand to what shape and width ask for, or holds NaN or Inf.
    """
    raw = decompress(packed.data, packed_bytes(packed.shape, packed.bits))
    # From pinned memory a copy waits for nothing else on the device; and torch wants what it may write to.
    host = torch.empty(len(raw), dtype=torch.uint8, pin_memory=device.type == "cuda")
    host.numpy()[:] = np.frombuffer(raw, np.uint8)
    stored = host.to(device, non_blocking=True)
    if packed.bits == 32:
        values = stored.view(torch.float32).view(packed.shape)
        if not bool(torch.isfinite(values).all()):
            raise CodecError("decoded activations must be finite, got NaN or Inf")
        return values
    channels = packed.shape[1]
    if len(packed.low) != channels or len(packed.scale) != channels:
        raise CodecError(
            f"{channels} channels need as many ranges, "
            f"got {len(packed.low)} low and {len(packed.scale)} scale"
        )
    low = torch.from_numpy(packed.low.copy()).to(device)
    scale = torch.from_numpy(packed.scale.copy()).to(device)
    top = low + scale * ((1 << packed.bits) - 1)
    if not bool(torch.isfinite(top).all()) or bool((scale < 0).any()):
        raise CodecError("ranges of activations must be finite with scale >= 0")
    return dequantise(stored.view(channels, -1), packed.bits, packed.shape, low, scale)


def _on_host(values: Tensor) -> Tensor:
    """Return a contiguous tensor's values on the CPU: itself, or a copy in pinned memory.

    Such a copy waits for this stream alone, and needs no second one.
    """
    if not values.is_cuda:
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return host
