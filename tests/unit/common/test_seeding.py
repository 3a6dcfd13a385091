"""Derived randomness: the same figures everywhere and for ever, and nothing in common between two keys."""

import hashlib

import numpy as np
import pytest
import torch

from common.seeding import derive, generator, hash64, seed_torch

M = (1 << 64) - 1


@pytest.fixture(autouse=True)
def _torch_draws_on():
    """Leave torch's default generator as it was."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def splitmix64(state, count):
    """Steele et al.'s generator in plain integers: `count` outputs from `state` on."""
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & M
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
        yield z ^ (z >> 31)


def test_hashes_are_the_published_generator_counted_by_its_argument():
    """The five numbers are those that other implementations of SplitMix64 give for 1234567."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]

    assert hash64(1234567, np.arange(1, 6)).tolist() == published
    assert list(splitmix64(1234567, 5)) == published


@pytest.mark.parametrize("key", [0, 1 << 63, M])
def test_keys_of_all_64_bits_wrap_around_as_they_should(key):
    assert hash64(key, np.arange(1, 101)).tolist() == list(splitmix64(key, 100))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.uint8])
def test_a_hash_depends_on_the_counter_alone(dtype):
    """Neither its type nor its place in the array matters."""
    counters = np.array([[7, 0, 200], [3, 3, 1]], dtype=dtype)

    hashed = hash64(5, counters)

    assert hashed.dtype == np.uint64
    one_by_one = [[int(hash64(5, np.array([c]))[0]) for c in row] for row in counters.tolist()]
    assert hashed.tolist() == one_by_one
    assert counters.tolist() == [[7, 0, 200], [3, 3, 1]]


def test_a_key_is_the_first_eight_bytes_of_a_hash_of_its_names():
    """A run that is resumed after an update must draw what it would have drawn: this never changes."""
    text = b"3\x1fsynthetic\x1ftrain\x1f7"

    assert derive(3, "synthetic", "train", 7) == int.from_bytes(
        hashlib.blake2b(text, digest_size=8).digest(), "little"
    )
    assert derive(0) == 8493733112532773764
    assert derive(0, "order", 1) == 7636051531545546627


def test_names_their_order_and_where_one_ends_all_matter():
    keys = [
        derive(0, "ab", "c"),
        derive(0, "a", "bc"),
        derive(0, "abc"),
        derive(0, "c", "ab"),
        derive(0, "ab", "c", ""),
        derive(1, "ab", "c"),
        derive(0, 1, 11),
        derive(0, 11, 1),
    ]

    assert len(set(keys)) == len(keys)
    assert all(0 <= key <= M for key in keys)


def bits(words):
    return np.unpackbits(words.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)


@pytest.mark.parametrize(
    "other",
    [
        lambda n: hash64(derive(0, "augment", 0), np.arange(1, n + 1)),
        lambda n: hash64(derive(0, "augment", 1), np.arange(n)),
        lambda n: hash64(derive(1, "augment", 0), np.arange(n)),
    ],
    ids=["next counter", "next epoch", "next seed"],
)
def test_neighbours_agree_in_half_their_bits(other):
    """Samples, epochs and seeds are numbered one after the other, yet draw unrelated bits."""
    n = 20_000
    mine = bits(hash64(derive(0, "augment", 0), np.arange(n)))

    differs = (mine != bits(other(n))).mean(axis=0)

    assert differs.shape == (64,)
    assert np.abs(differs - 0.5).max() < 0.02  # 5.6 standard errors
    assert np.abs(mine.mean(axis=0) - 0.5).max() < 0.02


def test_a_generator_draws_the_same_words_on_every_platform():
    words = generator(derive(0, "weights")).bit_generator.random_raw(3)

    assert words.tolist() == [8603492547478953883, 10068162193976394352, 15608102491264303345]


def dropped(seed, side, purpose, seq):
    seed_torch(seed, side, purpose, seq)
    return torch.nn.functional.dropout(torch.ones(64)).tolist()


def test_a_repeated_step_draws_what_it_drew_before_whatever_came_between():
    first = dropped(3, "edge", "train", 5)
    torch.rand(10)

    assert dropped(3, "edge", "train", 5) == first


@pytest.mark.parametrize(
    "other",
    [(4, "edge", "train", 5), (3, "cloud", "train", 5), (3, "edge", "eval", 5), (3, "edge", "train", 6)],
)
def test_another_seed_side_purpose_or_step_draws_something_else(other):
    assert dropped(*other) != dropped(3, "edge", "train", 5)


def test_every_key_is_one_that_torch_takes():
    """Torch's seeds reach over 64 bits; keys above 2^63 must not be refused."""
    assert any(derive(0, "edge", "train", seq) > 1 << 63 for seq in range(20))
    for seq in range(20):
        seed_torch(0, "edge", "train", seq)
