"""Our own frames of packed codes: zstd's library reads them, and they are small."""

import shutil
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec import encode, fused, packed_bytes
from common.codec.compress import decompress

BLOCK = 32 << 10
HEAD, BLOCK_HEAD = 10, 3  # bytes


@pytest.fixture(autouse=True)
def compiled():
    """Skips where there is no compiler."""
    if not fused.is_compiled():
        missing = "frames.c is not compiled; install anew"
        pytest.fail(missing) if shutil.which("gcc") or shutil.which("cc") else pytest.skip(missing)


def frame_of(values):
    """Return the frame, once the library has read it."""
    frame = fused.frame_of(torch.from_numpy(values))
    assert decompress(frame, len(values)) == values.tobytes()
    return frame


def drawn(kind, spread, size, seed):
    """Return bytes of very even, very uneven, and a few odd distributions."""
    rng = np.random.default_rng(seed)
    if kind == "even":
        values = rng.integers(0, 1 + int(255 * spread), size)
    elif kind == "geometric":
        values = np.minimum(rng.geometric(0.01 + 0.98 * spread, size), 255)
    elif kind == "normal":
        values = np.clip(rng.normal(128, 0.1 + 60 * spread, size), 0, 255)
    elif kind == "rare":
        values = (rng.random(size) < spread / 50) * rng.integers(1, 256)
    elif kind == "runs":
        few = size // 40 + 1
        values = np.resize(
            np.repeat(rng.integers(0, 1 + int(255 * spread), few), rng.geometric(0.02, few)), size
        )
    else:
        values = rng.zipf(1.05 + 3 * spread, size) % 256
    return values.astype(np.uint8)


def most_bytes(values):
    """Return what a code for each block takes at most, with room for how it is written down.

    It has whole bits, which cost no more than this for each byte (Gallager, 1978).
    """
    found = HEAD
    for start in range(0, max(len(values), 1), BLOCK):
        block = values[start : start + BLOCK]
        counts = np.bincount(block)
        counts = counts[counts > 0]
        bits = len(block) * np.log2(len(block)) - (counts * np.log2(counts)).sum() if len(block) else 0
        over = len(block) * (counts.max(initial=0) / max(len(block), 1) + 0.087)
        found += min((bits + over) / 8 + 256, len(block)) + BLOCK_HEAD
    return found


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["even", "geometric", "normal", "rare", "runs", "zipf"]),
    spread=st.floats(0, 1),
    size=st.one_of(st.integers(0, 3000), st.integers(BLOCK - 3, BLOCK + 3), st.integers(0, 400_000)),
    seed=st.integers(0, 10_000),
)
def test_the_library_reads_them_and_they_are_small(kind, spread, size, seed):
    values = drawn(kind, spread, size, seed)

    assert len(frame_of(values)) <= most_bytes(values)


@pytest.mark.parametrize("distinct", [2, 3, 13, 20, 21])
def test_codes_of_very_rare_bytes_are_cut(distinct):
    """Counts as Fibonacci's make Huffman's tree as deep as it can be; a code may have eleven bits."""
    counts = [1, 1]
    while len(counts) < distinct:
        counts.append(counts[-1] + counts[-2])
    values = np.repeat(np.arange(distinct, dtype=np.uint8) * 9, counts)[-BLOCK:]
    values = np.random.default_rng(0).permutation(np.tile(values, 1 + 3000 // len(values)))

    assert len(frame_of(values)) < most_bytes(values) * 1.05


@pytest.mark.parametrize(
    "counts",
    [
        [500, 500],  # one weight is stated, in four bits
        [500] * 4,  # three of one kind
        [9] * 128 + [9 * 128],
        [9] * 129 + [9 * 129],  # too many for four bits each
        [60] * 192 + [60 * 64],
    ],
)
def test_codes_whose_weights_are_all_of_one_kind_are_written(counts):
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts), dtype=np.uint8), counts))

    assert len(frame_of(values)) < most_bytes(values)


@pytest.mark.parametrize("runs", [1, 126, 127, 128, 129, 4095, 4096])
def test_any_number_of_runs(runs):
    values = np.repeat(np.arange(runs, dtype=np.uint8), 8)

    assert len(frame_of(values)) < max(0.6 * len(values), 40)


def test_blocks_of_all_kinds_follow_each_other():
    """Stored, coded, of one byte, coded again: the last offset stays 1."""
    rng = np.random.default_rng(0)
    noise, coded, one = rng.integers(0, 256, BLOCK), rng.geometric(0.3, BLOCK) % 256, np.full(BLOCK, 7)
    runs = np.repeat(rng.integers(0, 9, BLOCK), 40)[:BLOCK]
    values = np.concatenate([noise, runs, noise, one, runs, coded, one[:9]]).astype(np.uint8)

    assert len(frame_of(values)) < 2.7 * BLOCK


@pytest.mark.parametrize("length", [7, 8, 15, 16, 100, 300, 5000, BLOCK - 1])
def test_runs_take_a_few_bytes_each(length):
    """Between bytes that are hard to code, at all places within the words that are read at a time."""
    rng = np.random.default_rng(length)
    pieces = []
    for between in range(1, 40):
        pieces += [rng.integers(0, 256, between), np.full(length, rng.integers(0, 256))]
    values = np.concatenate(pieces).astype(np.uint8)

    frame = frame_of(values)

    blocks = len(values) // BLOCK + 1
    kept = sum(range(1, 40)) + 39 * min(length, 15)  # those shorter may be left as they are
    assert len(frame) < kept + (39 + blocks) * 7 + HEAD + 8 * blocks


def test_bytes_without_an_order_stay_as_they_are_and_one_byte_takes_next_to_nothing():
    noise = np.random.default_rng(0).integers(0, 256, 3 * BLOCK).astype(np.uint8)
    zeros = np.zeros(20 << 20, np.uint8)

    assert len(frame_of(noise)) == HEAD + 3 * BLOCK_HEAD + len(noise)
    assert len(frame_of(zeros)) == HEAD + len(zeros) // BLOCK * (BLOCK_HEAD + 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_of_activations_they_are_hardly_larger_than_the_library_s(bits):
    """Other frames of other sizes, of the same codes; a quarter of the channels is dead."""
    x = torch.randn(64, 32, 16, 16, generator=torch.Generator().manual_seed(0)).relu()
    x[:, ::4] = 0

    ours = encode(x, bits).data

    with patch("common.codec.compress.is_compiled", return_value=False):
        library = encode(x, bits).data
    size = packed_bytes(tuple(x.shape), bits)
    assert ours != library
    assert decompress(ours, size) == decompress(library, size)
    assert len(ours) <= len(library) * 1.01


@pytest.mark.parametrize("size", [0, 1, 255, 256, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_nothing_is_written_beyond_the_room(size, spread):
    kernels = fused._kernels
    values = drawn("even", spread, size, size)
    room = kernels.frame_room(size)
    memory = np.full(room + 64, 0xA5, np.uint8)

    kernels.write_frame(values.ctypes.data, size, memory.ctypes.data)

    assert (memory[room:] == 0xA5).all()
