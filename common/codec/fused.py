"""The passes of kernels.c over activations on a CPU, where it was compiled when headwater was installed."""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

KERNELS = "common.codec._kernels"
VERSION = 2  # of what kernels.c takes and returns
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32


class Encoding(NamedTuple):
    """The functions of kernels.c for one type of values."""

    extremes: Callable[..., int]
    codes: Callable[..., None]


class Kernels(NamedTuple):
    """The functions of kernels.c."""

    encoding: dict[torch.dtype, Encoding]
    values: Callable[..., None]


def _load() -> Kernels | None:
    spec = find_spec(KERNELS)
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        if _INT.in_dll(library, "version").value != VERSION:
            return None
    except (OSError, ValueError):  # left there by another machine, or an older version
        return None
    encoding = {}
    for dtype, suffix in SUFFIXES.items():
        extremes, codes = library[f"extremes_{suffix}"], library[f"codes_{suffix}"]
        extremes.argtypes, extremes.restype = [_POINTER, _SIZE, _SIZE, _POINTER, _POINTER], _INT
        codes.argtypes = [_POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _SIZE, _INT]
        codes.restype = None
        encoding[dtype] = Encoding(extremes, codes)
    values = library.values
    values.argtypes = [_POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _INT]
    values.restype = None
    return Kernels(encoding, values)


_kernels = _load()


def is_compiled() -> bool:
    """Return whether there are any kernels; without them the codec makes the same bytes, more slowly."""
    return _kernels is not None


def takes(x_PC: Tensor) -> bool:
    """Return whether these activations can go through the kernels: they are there, and know their kind."""
    if _kernels is None or x_PC.device.type != "cpu":
        return False
    return x_PC.dtype in _kernels.encoding and x_PC.is_contiguous()


def extremes(x_PC: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the least and the greatest value of each channel, float32 [C]; None where one is not finite.

    Args:
        x_PC: [P, C], such as `takes` agrees to.
    """
    rows, channels = x_PC.shape
    low, high = torch.empty(2, channels, dtype=torch.float32, device="cpu")
    assert _kernels is not None  # `takes` agreed
    find = _kernels.encoding[x_PC.dtype].extremes
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
    assert _kernels is not None  # `takes` agreed
    _kernels.encoding[x_PC.dtype].codes(
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


def values(packed_CB: Tensor, bits: int, low: Tensor, scale: Tensor, x_PC: Tensor) -> None:
    """Write the values code * scale + low that packed codes stand for.

    Args:
        packed_CB: uint8 [C, ceil(P * bits / 8)], contiguous.
        bits: 2, 4 or 8.
        low: float32 [C], contiguous.
        scale: float32 [C], contiguous.
        x_PC: float32 [P, C], such as `takes` agrees to; is written to.
    """
    assert _kernels is not None  # `takes` agreed
    rows, channels = x_PC.shape
    _kernels.values(
        packed_CB.data_ptr(),
        packed_CB.shape[1],
        rows,
        channels,
        low.data_ptr(),
        scale.data_ptr(),
        x_PC.data_ptr(),
        bits,
    )
