"""The passes of kernels.c over activations on a CPU, where it was compiled when headwater was installed."""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

KERNELS = "common.codec._kernels"
VERSION = 1  # of what kernels.c takes and returns
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32


class Kernels(NamedTuple):
    """The functions of kernels.c for one type of values."""

    extremes: Callable[..., int]
    codes: Callable[..., None]


def _load() -> dict[torch.dtype, Kernels]:
    spec = find_spec(KERNELS)
    if spec is None or spec.origin is None:
        return {}
    try:
        library = ctypes.CDLL(spec.origin)
        if _INT.in_dll(library, "version").value != VERSION:
            return {}
    except (OSError, ValueError):  # left there by another machine, or an older version
        return {}
    kernels = {}
    for dtype, suffix in SUFFIXES.items():
        extremes, codes = library[f"extremes_{suffix}"], library[f"codes_{suffix}"]
        extremes.argtypes, extremes.restype = [_POINTER, _SIZE, _SIZE, _POINTER, _POINTER], _INT
        codes.argtypes = [_POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _SIZE, _INT]
        codes.restype = None
        kernels[dtype] = Kernels(extremes, codes)
    return kernels


_kernels = _load()


def is_compiled() -> bool:
    """Return whether there are any kernels; without them the codec makes the same bytes, more slowly."""
    return bool(_kernels)


def takes(x_PC: Tensor) -> bool:
    """Return whether these activations can go through the kernels: they are there, and know their kind."""
    return x_PC.device.type == "cpu" and x_PC.dtype in _kernels and x_PC.is_contiguous()


def extremes(x_PC: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the least and the greatest value of each channel, float32 [C]; None where one is not finite.

    Args:
        x_PC: [P, C], such as `takes` agrees to.
    """
    rows, channels = x_PC.shape
    low, high = torch.empty(2, channels, dtype=torch.float32, device="cpu")
    find = _kernels[x_PC.dtype].extremes
    is_unsound = find(x_PC.data_ptr(), rows, channels, low.data_ptr(), high.data_ptr())
    return None if is_unsound else (low, high)


def codes(x_PC: Tensor, low: Tensor, steps_per_unit: Tensor, bits: int) -> Tensor:
    """Return the packed codes (x - low) * steps_per_unit, rounded: uint8 [C, ceil(P * bits / 8)].

    Args:
        x_PC: [P, C], such as `takes` agrees to.
        low: float32 [C], contiguous.
        steps_per_unit: float32 [C], contiguous; no code may come out above 2^bits - 1.
        bits: 2, 4 or 8.
    """
    rows, channels = x_PC.shape
    packed_CB = torch.empty(channels, -(-rows * bits // 8), dtype=torch.uint8, device="cpu")
    _kernels[x_PC.dtype].codes(
        x_PC.data_ptr(),
        rows,
        channels,
        low.data_ptr(),
        steps_per_unit.data_ptr(),
        packed_CB.data_ptr(),
        packed_CB.shape[1],
        bits,
    )
    return packed_CB
