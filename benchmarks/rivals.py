"""What other systems do to a tensor before they send it, for the benchmark of the codec.

Their own code where it is installed, else the published formula, written anew; each says which it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

N_BINS = 256
SIGMAS = 6


@dataclass(frozen=True, slots=True)
class Rival:
    """Another system's codec.

    Attributes:
        name: the system and its path.
        source: whose code it is.
        encode: float32 tensor -> bytes.
        decode: (bytes, shape) -> float32 tensor.
    """

    name: str
    source: str
    encode: Callable[[Tensor], bytes]
    decode: Callable[[bytes, tuple[int, ...]], Tensor]


def hivemind_8bit() -> Rival:
    """Return Hivemind's UNIFORM_8BIT (learning-at-home/hivemind, hivemind/compression).

    256 even steps over six standard deviations around the mean, each decoded as the average of its values.
    """
    try:
        from hivemind.compression import CompressionInfo, Uniform8BitQuantization
        from hivemind.proto import runtime_pb2
    except ImportError:
        return Rival("Hivemind UNIFORM_8BIT", "formula", _uniform_8bit, _from_codebook)
    codec = Uniform8BitQuantization()

    def encode(x: Tensor) -> bytes:
        data: bytes = codec.compress(x, CompressionInfo.from_tensor(x)).SerializeToString()
        return data

    def decode(data: bytes, shape: tuple[int, ...]) -> Tensor:
        # Their `extract` fails on NumPy 2, where an array of one number is no number.
        return _from_codebook(runtime_pb2.Tensor.FromString(data).buffer[8:], shape)

    return Rival("Hivemind UNIFORM_8BIT", "its own encode", encode, decode)


def _uniform_8bit(x: Tensor) -> bytes:
    centred = x - x.mean()
    deviation = centred.norm() / math.sqrt(centred.numel() - 1)
    step = SIGMAS * deviation / N_BINS
    codes = torch.quantize_per_tensor(centred, step, N_BINS // 2, torch.quint8).int_repr().flatten()
    sums = torch.zeros(N_BINS).scatter_add_(0, codes.long(), x.flatten())
    codebook = sums / torch.bincount(codes, minlength=N_BINS).clamp_(min=1)
    return codebook.numpy().tobytes() + codes.numpy().tobytes()


def _from_codebook(data: bytes, shape: tuple[int, ...]) -> Tensor:
    codebook = torch.from_numpy(np.frombuffer(data, dtype=np.float32, count=N_BINS).copy())
    codes = torch.frombuffer(bytearray(data[4 * N_BINS :]), dtype=torch.uint8)
    return codebook[codes.long()].view(shape)


def nvflare_fp16() -> Rival:
    """Return what NVFlare's `float16` filter does (NVIDIA/NVFlare, nvflare/app_opt/pt/quantization).

    Clamp to the range of float16, and cast. Its module wants a CUDA library, so it is always the formula.
    """
    limits = torch.finfo(torch.float16)

    def encode(x: Tensor) -> bytes:
        return x.clamp(limits.min, limits.max).to(torch.float16).numpy().tobytes()

    def decode(data: bytes, shape: tuple[int, ...]) -> Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.float16).float().view(shape)

    return Rival("NVFlare float16", "formula", encode, decode)
