"""Gymnasium's spaces as models see them: whole numbers, numbers or pictures, and choices or numbers to act by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from irl_ray.errors import UserError

SMALL = 16  # cells along a side up to which an array of bytes is taken for symbols and not for a picture


def read_as(space: gym.Space) -> tuple[gym.Space, Callable[[Any], np.ndarray], Callable[[np.ndarray], Any]]:
    """The space that models read for observations of a space, the function that takes them there, and the way back.

    | observations | read as |
    |---|---|
    | `Discrete`, `MultiDiscrete`, `MultiBinary`, whole numbers in a `Box` | `MultiDiscrete`, flat, counted from 0 |
    | bytes [H, W, C] with a side over 16 | a picture, as it is |
    | numbers in a `Box`; `Tuple`, `Dict`, as Gymnasium flattens them | `Box`, flat, float32 |

    Raises:
        UserError: if models cannot read them.
    """
    whole = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.integer)
    if isinstance(space, gym.spaces.Discrete):
        counted = gym.spaces.MultiDiscrete([space.n])
        return counted, lambda x: _whole(x).reshape(1) - space.start, lambda x: x[0] + space.start
    if whole and space.dtype == np.uint8 and len(space.shape) == 3 and max(space.shape[:2]) > SMALL:
        return space, np.asarray, lambda x: np.asarray(x, space.dtype)
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary) or whole:
        counts, start = _counted(space)
        return (
            gym.spaces.MultiDiscrete(counts.flatten()),
            lambda x: (_whole(x) - start).flatten(),
            lambda x: (np.reshape(x, space.shape) + start).astype(space.dtype),
        )
    if isinstance(space, gym.spaces.Box):
        numbers = gym.spaces.Box(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float32)
        return (
            numbers,
            lambda x: np.asarray(x, np.float32).flatten(),
            lambda x: _within(space, x),
        )
    try:
        flat = gym.spaces.flatten_space(space)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, gym.spaces.Box):
        raise UserError(f"observation space {space}: cannot be read; wrap the environment so that it tells less")
    return (
        gym.spaces.Box(-np.inf, np.inf, flat.shape, np.float32),
        lambda x: gym.spaces.flatten(space, x).astype(np.float32),
        lambda x: gym.spaces.unflatten(space, x.astype(flat.dtype)),
    )


def _whole(values: Any) -> np.ndarray:
    """The same as int64.

    Raises:
        ValueError: if one has a fraction.
    """
    given = np.asarray(values)
    if given.dtype.kind == "f" and (given != np.floor(given)).any():
        raise ValueError("expected whole numbers, got fractions")
    return given.astype(np.int64, copy=False)


def _within(space: gym.spaces.Box, values: np.ndarray) -> np.ndarray:
    """Values in the shape and type of a box, clipped to its bounds."""
    return np.clip(np.reshape(values, space.shape).astype(space.dtype), space.low, space.high)


def _counted(space: gym.Space) -> tuple[np.ndarray, np.ndarray]:
    """How many values each entry of a space of whole numbers has, and the first of them."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec, space.start
    if isinstance(space, gym.spaces.MultiBinary):
        return np.full(space.shape, 2), np.zeros(space.shape, np.int64)
    low, high = (bound.astype(np.int64) for bound in (space.low, space.high))
    if (space.high.astype(np.float64) - space.low).max() >= 2**16:
        raise UserError(f"observation space {space}: whole numbers of more than {2**16} values cannot be read")
    return high - low + 1, low


def act_as(space: gym.Space) -> tuple[gym.Space, Callable[[np.ndarray], Any], Callable[[np.ndarray], np.ndarray]]:
    """The space that models act in for a space of actions, the function from there to the environment's action, and the
    one that takes the environment's actions [T, ...] there.

    | actions | given as |
    |---|---|
    | `Discrete` | `Discrete`, counted from 0 |
    | `MultiDiscrete`, `MultiBinary` | `MultiDiscrete`, flat, counted from 0 |
    | `Box` of floats | `Box`, flat; what lies outside is clipped |

    Raises:
        UserError: if models cannot act in it.
    """
    if isinstance(space, gym.spaces.Discrete):
        start = int(space.start)
        return gym.spaces.Discrete(space.n), lambda a: int(a) + start, lambda a: np.asarray(a, np.int64) - start
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        counts, start = _counted(space)
        return (
            gym.spaces.MultiDiscrete(counts.flatten()),
            lambda a: (np.reshape(a, space.shape) + start).astype(space.dtype),
            lambda a: (np.reshape(np.asarray(a, np.int64), (len(a), *space.shape)) - start).reshape(len(a), -1),
        )
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return (
            gym.spaces.Box(space.low.flatten(), space.high.flatten(), dtype=space.dtype),
            lambda a: _within(space, a),
            lambda a: np.asarray(a).reshape(len(a), -1),
        )
    raise UserError(f"action space {space}: expected Discrete, MultiDiscrete, MultiBinary, or a Box of floats")
