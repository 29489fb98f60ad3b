"""Every random stream of a run derives from one seed by name, so no two ever coincide."""

from __future__ import annotations

import zlib

import numpy as np


def seed_sequence(seed: int, *key: str | int) -> np.random.SeedSequence:
    """The SeedSequence of the stream called `key` in the run with this `seed`.

    A key is a path such as `("rollout", round, episode)`. Words are hashed with CRC-32, which,
    unlike `hash`, is the same in every process.
    """
    words = (zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key)
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(words))


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A NumPy generator on `seed_sequence(seed, *key)`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *key)))


def torch_seed(seed: int, *key: str | int) -> int:
    """A 63-bit integer for `torch.Generator.manual_seed`, from the same streams."""
    return int(seed_sequence(seed, *key).generate_state(1, np.uint64)[0]) >> 1
