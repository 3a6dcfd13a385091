"""The codec's facade: error bounds, sizes, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.codec import WIDTHS, decode, encode, packed_bytes
from common.codec.compress import decompress
from common.errors import CodecError

CPU = torch.device("cpu")
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (32, 16, 8, 8), (3, 2, 1, 1)]


def activations(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, -1.5], ids=["after a ReLU", "negative too"])
def test_round_trip_moves_no_value_by_more_than_half_a_step(shape, bits, shift):
    """The documented error bound holds channel by channel, for any shape."""
    x = activations(shape) + shift

    packed = encode(x, bits)

    error = (decode(packed, CPU) - x).abs().amax(dim=(0, 2, 3))
    bound = torch.from_numpy(packed.scale) / 2 + 4e-7 * x.abs().amax(dim=(0, 2, 3))
    assert (error <= bound).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_32_bits_lose_nothing(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    assert torch.equal(decode(encode(x, 32), CPU), x)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bfloat16_values_do_not_wrap_past_the_largest_code(bits):
    """Rounded in bfloat16, codes near 255 become 256 and wrap to 0."""
    x = torch.linspace(-3, 3, 2048).to(torch.bfloat16).view(2, 4, 16, 16)

    decoded = decode(encode(x, bits), CPU)

    assert (decoded - x.float()).abs().max() <= 6 / ((1 << bits) - 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_memory_format_changes_no_byte(bits):
    """Codes are ordered C, N, H, W whatever the layout in memory."""
    x = activations((4, 8, 6, 5))

    plain, last = encode(x, bits), encode(x.to(memory_format=torch.channels_last), bits)

    assert plain.data == last.data
    assert np.array_equal(plain.low, last.low)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shift", [0.0, -1.5], ids=["after a ReLU", "negative too"])
def test_the_size_of_blocks_changes_no_byte(monkeypatch, bits, shift):
    """On a GPU all is one block; 75 positions fill no byte evenly, nor a block."""
    monkeypatch.setattr("common.codec.fused.takes", lambda x_PC: False)
    x = activations((3, 6, 5, 5)) + shift
    whole = encode(x, bits)

    monkeypatch.setattr("common.codec.quantise.BLOCK_VALUES", 64)

    blocks = encode(x, bits)
    assert blocks.data == whole.data
    assert np.array_equal(blocks.scale, whole.scale)
    assert torch.equal(decode(blocks, CPU), decode(whole, CPU))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_of_a_channel_lie_together_and_begin_with_a_byte(bits):
    """As the .proto file states it; the second channel is the first one upside down."""
    levels = (1 << bits) - 1
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).view(1, 2, 1, 3)

    codes = np.frombuffer(decompress(encode(x, bits).data, packed_bytes((1, 2, 1, 3), bits)), dtype=np.uint8)

    first, second = codes.reshape(2, -1)
    assert int.from_bytes(first.tobytes(), "little") == levels << bits | levels << 2 * bits
    assert int.from_bytes(second.tobytes(), "little") == levels


def test_zeros_of_both_signs_give_one_low():
    """Which of the two counts as the least differs from device to device."""
    zeros = torch.tensor([-0.0, 0.0, 0.0, -0.0]).view(4, 1, 1, 1)

    assert encode(zeros, 4).low.tobytes() == encode(-zeros, 4).low.tobytes() == bytes(4)


def test_a_step_below_the_smallest_normal_number_counts_as_none():
    x = torch.tensor([0.0, 1e-39]).view(2, 1, 1, 1)

    packed = encode(x, 4)

    assert packed.scale.tolist() == [0.0]
    assert (decode(packed, CPU) == 0).all()


def test_encoding_leaves_its_input_unchanged():
    x = activations((2, 3, 4, 4))
    before = x.clone()

    encode(x, 4)

    assert torch.equal(x, before)


def test_constant_channel_comes_back_exactly():
    """Its range is empty, so that its step is 0."""
    x = torch.full((2, 2, 3, 3), 1.7)

    packed = encode(x, 4)

    assert torch.equal(decode(packed, CPU), x)
    assert (packed.scale == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_value_that_is_not_finite_is_refused(bits, value):
    x = activations((2, 3, 4, 4))
    x[1, 2, 3, 0] = value

    with pytest.raises(CodecError, match="must be finite"):
        encode(x, bits)


def test_a_range_beyond_float32_is_refused():
    x = torch.tensor([-3e38, 3e38]).view(2, 1, 1, 1)

    with pytest.raises(CodecError, match="must be finite, got a range of inf in channel 0"):
        encode(x, 8)


@pytest.mark.parametrize(("bits", "size"), [(2, 27), (4, 54), (8, 105), (32, 420)])
def test_size_before_compression_is_the_bits_of_each_channel_rounded_up(bits, size):
    assert packed_bytes((1, 3, 5, 7), bits) == size


def test_frame_of_another_size_is_refused_with_both_sizes():
    """A bomb is recognised by what its frame states, before it is expanded."""
    small, large = encode(activations((1, 1, 2, 2)), 8), encode(activations((8, 1, 64, 64)), 8)

    with pytest.raises(CodecError, match="must expand to 4 bytes, the frame states 32768"):
        decode(dataclasses.replace(small, data=large.data), CPU)


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-3], lambda d: b"", lambda d: b"\x00" * 40, lambda d: d[:5], lambda d: d + d],
    ids="short empty zeros header two".split(),
)
def test_damaged_frame_is_refused(damage):
    packed = encode(activations((4, 4, 8, 8)), 4)

    with pytest.raises(CodecError):
        decode(dataclasses.replace(packed, data=damage(packed.data)), CPU)


@pytest.mark.parametrize(("field", "value"), [("low", np.nan), ("scale", np.inf), ("scale", -1.0)])
def test_ranges_that_are_not_finite_or_negative_are_refused(field, value):
    packed = encode(activations((2, 3, 4, 4)), 4)
    ranges = getattr(packed, field).copy()
    ranges[1] = value

    with pytest.raises(CodecError, match="ranges of activations must be finite"):
        decode(dataclasses.replace(packed, **{field: ranges}), CPU)


def test_unknown_width_is_refused():
    with pytest.raises(CodecError, match=r"one of \(2, 4, 8, 32\) bits, got 3"):
        encode(activations((1, 1, 1, 1)), 3)


class Divisions(TorchDispatchMode):
    """Notes what anything is divided by."""

    def __init__(self):
        super().__init__()
        self.divisors = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.div:
            self.divisors.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nothing_is_divided_by_a_number(bits, monkeypatch):
    """CUDA would multiply by its rounded reciprocal, and the bytes be others than a CPU's."""
    monkeypatch.setattr("common.codec.fused.takes", lambda x_PC: False)  # as on CUDA
    x = activations((4, 8, 6, 5))
    with Divisions() as seen:
        decode(encode(x, bits), CPU)

    assert seen.divisors
    assert all(isinstance(each, torch.Tensor) and each.dim() for each in seen.divisors)
