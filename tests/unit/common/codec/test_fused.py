"""The compiled passes make what the plain operations make, bit for bit, and refuse what they refuse."""

import shutil
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec import encode, fused
from common.codec.quantise import channel_bytes, dequantise, quantise
from common.errors import CodecError

SPECIAL = [0.0, -0.0, 1e-45, -1e-40, 1.5, -2.5, 3e38, -3e38, 1e-7]
PLAIN = patch("common.codec.fused.takes", return_value=False)


@pytest.fixture(autouse=True)
def compiled():
    """Skips where there is no compiler."""
    if not fused.takes(torch.zeros(1, 1)):
        missing = "kernels.c is not compiled; install anew"
        pytest.fail(missing) if shutil.which("gcc") or shutil.which("cc") else pytest.skip(missing)


def drawn(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    for channel in range(shape[1]):  # some after a ReLU, some constant, some of very different size
        kind = int(torch.randint(5, (), generator=generator))
        if kind == 0:
            x[:, channel] = x[:, channel].relu()
        elif kind == 1:
            x[:, channel] = 0.7
        elif kind == 2:
            x[:, channel] *= 10.0 ** float(torch.randint(-40, 37, (), generator=generator))
    return x.to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    channels=st.sampled_from([1, 2, 3, 8, 31, 255, 256, 257, 300]),
    height=st.integers(1, 9),
    width=st.integers(1, 20),
    bits=st.sampled_from([2, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10_000),
)
def test_equal_to_the_plain_operations(n, channels, height, width, bits, dtype, seed):
    """Up to 1,620 rows: at each width more than the passes take at a time."""
    x = drawn((n, channels, height, width), dtype, seed).to(memory_format=torch.channels_last)

    made = quantise(x, bits)

    with PLAIN:
        plain = quantise(x, bits)
    assert [each.numpy().tobytes() for each in made] == [each.numpy().tobytes() for each in plain]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    channels=st.sampled_from([1, 2, 3, 8, 31, 127, 128, 129, 300]),
    height=st.integers(1, 9),
    width=st.integers(1, 20),
    bits=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 10_000),
)
def test_values_equal_those_of_the_plain_operations(n, channels, height, width, bits, seed):
    """For any codes and ranges that the wire may bring, and for rows that end within a byte or a word."""
    shape = (n, channels, height, width)
    generator = torch.Generator().manual_seed(seed)
    size = (channels, channel_bytes(shape, bits))
    packed_CB = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    power = torch.randint(-37, 36, (2, channels), generator=generator)
    low, scale = torch.randn(2, channels, generator=generator) * 10.0**power
    scale = scale.abs()

    made = dequantise(packed_CB, bits, shape, low, scale)

    with PLAIN:
        plain = dequantise(packed_CB, bits, shape, low, scale)
    assert made.shape == plain.shape
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert made.numpy().tobytes() == plain.numpy().tobytes()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equal_for_values_at_the_edges_of_float32(bits):
    """One channel for each pair of them; where their distance is beyond float32, both refuse."""
    for low in SPECIAL:
        for high in SPECIAL:
            x = torch.tensor([low, high, low, high, high]).view(5, 1, 1, 1)
            assert outcome(x, bits, PLAIN) == outcome(x, bits, nullcontext()), (low, high)


def outcome(x, bits, how):
    with how:
        try:
            packed = encode(x, bits)
        except CodecError as error:
            return str(error)
    return packed.data, packed.low.tobytes(), packed.scale.tobytes()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_halves_go_to_the_even_level(bits):
    levels = (1 << bits) - 1
    halves = np.arange(levels, dtype=np.float32) + 0.5
    x = torch.from_numpy(np.concatenate([[0.0, levels], halves]).astype(np.float32)).view(-1, 1, 1, 1)

    packed_CB = quantise(x, bits)[0].numpy()[0]

    codes = [int(byte) >> shift & levels for byte in packed_CB for shift in range(0, 8, bits)]
    assert codes[: levels + 2] == [0, levels, *np.rint(halves).astype(int)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_that_is_not_finite_is_seen_wherever_it_is(value, dtype):
    """Rows are looked at four at a time, the last ones singly."""
    for position in range(11):
        x = torch.randn(11, 9, 1, 1).to(dtype)
        x[position, 7] = value

        with pytest.raises(CodecError, match=r"must be finite, got a range of .* in channel 7"):
            quantise(x, 4)


def test_a_part_of_a_larger_tensor_is_taken_for_what_it_is():
    """Its rows do not lie one behind the other."""
    x = torch.randn(4, 12, 5, 5).contiguous(memory_format=torch.channels_last)

    made = encode(x[:, 3:7], 4)

    assert made.data == encode(x[:, 3:7].clone(), 4).data


@pytest.mark.parametrize(
    ("change", "index"),
    [(lambda packed: packed[:, :-1], 0), (lambda packed: packed[:-1], 0), (lambda low: low.double(), 2)],
)
def test_memory_of_another_size_or_kind_is_not_touched(change, index):
    """It would be read beyond its end."""
    packed_CB, low, scale = quantise(torch.randn(4, 8, 3, 3), 4)
    arguments = [packed_CB, 4, low, scale, torch.empty(36, 8)]
    arguments[index] = change(arguments[index]).contiguous()

    with pytest.raises(AssertionError):
        fused.dequantise(*arguments)


def test_a_library_of_another_version_is_left_alone(monkeypatch):
    """An editable installation keeps the file that was compiled when it was installed."""
    monkeypatch.setattr(fused, "VERSION", fused.VERSION + 1)

    assert fused._load() is None
