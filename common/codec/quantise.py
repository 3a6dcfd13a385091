"""Per-channel affine quantisation: x ~ low[c] + scale[c] * code.

Each channel's range over the batch is divided into 2^bits - 1 even steps, and a value goes to the nearest
level. Error bound: |x - decoded| <= scale[c] / 2, plus a few units in the last place of float32 at the
channel's largest magnitude (the subtraction, division and sum round too).

Every operation is one correctly rounded float32 operation, in the same order on every device, so that equal
input gives equal codes on CPU and CUDA.

Shape letters: N batch, C channels, H height, W width.
"""

import torch
from torch import Tensor

from common.errors import CodecError


def quantise(x_NCHW: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Map each value to the nearest of 2^bits levels of its channel.

    Args:
        x_NCHW: any floating dtype and memory format; left unchanged.
        bits: 2, 4 or 8.

    Returns:
        codes uint8 [N, C, H, W] contiguous, low float32 [C], scale float32 [C].

    Raises:
        CodecError: a value is NaN or infinite, or a channel's range does not fit into float32.
    """
    levels = (1 << bits) - 1
    # float32 first: bfloat16 arithmetic would round codes beyond 255 and wrap.
    x = x_NCHW.detach().float()
    low = x.amin(dim=(0, 2, 3))
    span = x.amax(dim=(0, 2, 3)) - low
    if not bool(torch.isfinite(span).all()):
        channel = int((~torch.isfinite(span)).nonzero()[0])
        raise CodecError(
            f"activations must be finite, got a range of {span[channel].item()} in channel {channel}; "
            "the training has diverged: lower --lr or raise --warmup"
        )
    scale = span / levels
    # A constant channel (or one whose step underflows) has scale 0: divide by 1, all codes are 0.
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (x - low.view(1, -1, 1, 1)).div_(divisor.view(1, -1, 1, 1)).round_().clamp_(0, levels)
    return codes.to(torch.uint8).contiguous(), low, scale


def dequantise(codes_NCHW: Tensor, low: Tensor, scale: Tensor) -> Tensor:
    """Return the float32 values that `codes_NCHW` (uint8) stand for; `low` and `scale` are float32 [C]."""
    return codes_NCHW.float().mul_(scale.view(1, -1, 1, 1)).add_(low.view(1, -1, 1, 1))
