"""Gymnasium's spaces of observations, as models read them: whole numbers, numbers, or pictures."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from irl_ray.errors import UserError

SMALL = 16  # cells along a side up to which an array of bytes is taken for symbols and not for a picture


def read_as(space: gym.Space) -> tuple[gym.Space, Callable[[np.ndarray], np.ndarray]]:
    """The space that models read for observations of a space, and the function that takes them there.

    | observations | read as |
    |---|---|
    | `Discrete`, `MultiDiscrete`, `MultiBinary`, whole numbers in a `Box` | `MultiDiscrete`, flat, counted from 0 |
    | bytes [H, W, C] with a side over 16 | a picture, as it is |
    | numbers in a `Box`; `Tuple`, `Dict`, as Gymnasium flattens them | `Box`, flat, float32 |

    Raises:
        UserError: if models cannot read them.
    """
    if isinstance(space, gym.spaces.Discrete):
        return gym.spaces.MultiDiscrete([space.n]), lambda x: np.asarray(x, np.int64).reshape(1) - space.start
    if isinstance(space, gym.spaces.MultiBinary):
        return gym.spaces.MultiDiscrete(np.full(int(np.prod(space.shape)), 2)), _flat(np.int64)
    if isinstance(space, gym.spaces.MultiDiscrete):
        start = space.start.flatten()
        return gym.spaces.MultiDiscrete(space.nvec.flatten()), lambda x: np.asarray(x, np.int64).flatten() - start
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.integer):
        if space.dtype == np.uint8 and len(space.shape) == 3 and max(space.shape[:2]) > SMALL:
            return space, lambda x: np.asarray(x)
        low, high = (bound.astype(np.int64).flatten() for bound in (space.low, space.high))
        if (high - low).max() >= 2**16:
            raise UserError(f"observation space {space}: whole numbers of more than {2**16} values cannot be read")
        return gym.spaces.MultiDiscrete(high - low + 1), lambda x: np.asarray(x, np.int64).flatten() - low
    if isinstance(space, gym.spaces.Box):
        return gym.spaces.Box(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float32), _flat(np.float32)
    try:
        flat = gym.spaces.flatten_space(space)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, gym.spaces.Box):
        raise UserError(f"observation space {space}: cannot be read; wrap the environment so that it tells less")
    as_numbers = gym.spaces.Box(-np.inf, np.inf, flat.shape, np.float32)
    return as_numbers, lambda x: gym.spaces.flatten(space, x).astype(np.float32)


def _flat(dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.asarray(x, dtype).flatten()
