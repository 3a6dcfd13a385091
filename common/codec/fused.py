"""The passes of kernels.c and frames.c on a CPU, where they were compiled when headwater was installed."""

import ctypes
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

KERNELS = "common.codec._kernels"
VERSION = 4  # of what kernels.c and frames.c take and return
NOT_COMPILED = "the codec is not compiled, which makes it slower: install again with a C compiler"
LARGEST_FRAME = (1 << 32) - 1  # bytes of content
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32


class Kernels(NamedTuple):
    """The compiled functions: `quantise` for each type of values, `dequantise` gives float32."""

    quantise: Mapping[torch.dtype, Callable[..., int]]
    dequantise: Callable[..., None]
    frame_room: Callable[[int], int]
    write_frame: Callable[..., int]


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
    quantise = {}
    for dtype, suffix in SUFFIXES.items():
        function = library[f"quantise_{suffix}"]
        function.argtypes = [_POINTER, _SIZE, _SIZE, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _SIZE]
        function.restype = _INT
        quantise[dtype] = function
    library.dequantise.argtypes = [_POINTER, _SIZE, _SIZE, _SIZE, _INT, _POINTER, _POINTER, _POINTER]
    library.dequantise.restype = None
    library.frame_room.argtypes = [_SIZE]
    library.frame_room.restype = _SIZE
    library.write_frame.argtypes = [_POINTER, _SIZE, _POINTER]
    library.write_frame.restype = _SIZE
    return Kernels(quantise, library.dequantise, library.frame_room, library.write_frame)


_kernels = _load()


def is_compiled() -> bool:
    """Return whether there are any kernels; without them the codec makes the same codes, more slowly."""
    return _kernels is not None


def takes(x_PC: Tensor) -> bool:
    """Return whether these activations can go through the kernels: they are there, and know their kind."""
    if _kernels is None or x_PC.device.type != "cpu":
        return False
    return x_PC.dtype in _kernels.quantise and x_PC.is_contiguous()


def quantise(x_PC: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return what the function of this name in quantise.py does; None where a range is not finite.

    Args:
        x_PC: [P, C], such as `takes` agrees to.
        bits: 2, 4 or 8.
    """
    assert _kernels is not None  # `takes` agreed
    assert bits in (2, 4, 8)
    rows, channels = x_PC.shape
    packed_CB = torch.empty(channels, -(-rows * bits // 8), dtype=torch.uint8, device="cpu")
    low, scale, steps = torch.empty(3, channels, dtype=torch.float32, device="cpu")
    is_void = _kernels.quantise[x_PC.dtype](
        x_PC.data_ptr(),
        rows,
        channels,
        bits,
        low.data_ptr(),
        scale.data_ptr(),
        steps.data_ptr(),
        packed_CB.data_ptr(),
        packed_CB.shape[1],
    )
    return None if is_void else (packed_CB, low, scale)


def dequantise(packed_CB: Tensor, bits: int, low: Tensor, scale: Tensor, x_PC: Tensor) -> None:
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
    # Else memory that is not theirs would be read and written.
    assert bits in (2, 4, 8)
    assert packed_CB.shape == (channels, -(-rows * bits // 8))
    assert packed_CB.dtype == torch.uint8
    assert packed_CB.is_contiguous()
    for each in (low, scale):
        assert each.shape == (channels,)
        assert each.is_contiguous()
    assert low.dtype == scale.dtype == x_PC.dtype == torch.float32
    _kernels.dequantise(
        packed_CB.data_ptr(),
        packed_CB.shape[1],
        rows,
        channels,
        bits,
        low.data_ptr(),
        scale.data_ptr(),
        x_PC.data_ptr(),
    )


def frame_of(codes: Tensor) -> bytes:
    """Return a zstd frame (RFC 8878) of packed codes that states its content size.

    Args:
        codes: uint8, contiguous, on the CPU; at most LARGEST_FRAME.
    """
    assert _kernels is not None  # is_compiled() said so
    # Else memory that is not theirs would be read.
    assert codes.dtype == torch.uint8
    assert codes.device.type == "cpu"
    assert codes.is_contiguous()
    assert codes.numel() <= LARGEST_FRAME
    frame = torch.empty(_kernels.frame_room(codes.numel()), dtype=torch.uint8, device="cpu")
    size = _kernels.write_frame(codes.data_ptr(), codes.numel(), frame.data_ptr())
    return frame[:size].numpy().tobytes()
