"""Randomness is derived, never stored: every draw is a pure function of names and numbers.

A run that is resumed draws what it would have drawn anyway, because nothing depends on how many draws came
before. Keys are 64-bit; `hash64` spreads one key over many counters at once (the finaliser of SplitMix64:
Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014, doi:10.1145/2660193.2660195).
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray


def derive(seed: int, *names: str | int) -> int:
    """Return a 64-bit key for `names` under `seed`; other names or order give an unrelated key."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(key: int) -> np.random.Generator:
    """Return a NumPy generator for `key`; its stream is the same on every platform."""
    return np.random.Generator(np.random.Philox(key=key))


def seed_torch(seed: int, side: str, purpose: str, seq: int) -> None:
    """Seed torch's default generators for one step, so that dropout repeats when the step does."""
    torch.manual_seed(derive(seed, side, purpose, seq))


def hash64(key: int, counters: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return 64 random bits for each of `counters` (any shape) under `key`."""
    x = counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
