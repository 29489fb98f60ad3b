"""Rows: copies of a world that start, step and stop on their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from irl_ray.errors import UserError
from irl_ray.worlds.world import World


class Rows(Protocol):
    """Copies of a world; Gymnasium's vector interface, and what samplers need beyond it.

    Attributes:
        world: the world.
        num_envs: N.
        elapsed: int64 [N], steps of each row's episode so far.
        leg: int64 [N], legs of its task done so far; 0 in worlds without legs.
        free: without a task: nothing but the horizon and accidents end an episode. For analysis.
    """

    world: World
    num_envs: int
    elapsed: np.ndarray
    leg: np.ndarray
    free: bool
    single_observation_space: gym.Space
    single_action_space: gym.Space
    observation_space: gym.Space
    action_space: gym.Space

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes in all rows, or in those of `options["reset_mask"]` (bool [N])."""

    def step(
        self, actions: np.ndarray, still: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every row whose episode is not over, but for those of the mask `still` [N]."""

    def observe(self) -> np.ndarray:
        """The present observation of every row."""

    def frame(self, beta: float | None = None, code: int | None = None) -> np.ndarray:
        """uint8 [H, W, 3]: the first row.

        Args:
            beta: the switch gate, where there is one.
            code: number of the code in force, counted from 1.
        """

    def keep(self, rows: np.ndarray) -> None:
        """Shrinks to the given rows, for samplers whose other episodes are over."""

    def close(self) -> None:
        """Closes what is open."""


AUTORESET = {"next_step": AutoresetMode.NEXT_STEP, "disabled": AutoresetMode.DISABLED}


def autoreset_mode(name: str) -> AutoresetMode:
    """Gymnasium's mode by its name here.

    Raises:
        UserError: for any other, such as "same_step".
    """
    if name not in AUTORESET:
        raise UserError(f"autoreset: expected {' or '.join(map(repr, AUTORESET))}, got {name!r}")
    return AUTORESET[name]


def rows_to_reset(options: dict[str, Any] | None, num_envs: int) -> np.ndarray:
    """The rows that `options["reset_mask"]` (bool [N]) names, all of them without it.

    Raises:
        UserError: if the mask is of another type or shape.
    """
    given = (options or {}).get("reset_mask")
    mask = np.ones(num_envs, bool) if given is None else np.asarray(given)
    if mask.shape != (num_envs,) or mask.dtype != bool:
        raise UserError(f"reset_mask: expected {num_envs} booleans, got {mask.dtype} of shape {mask.shape}")
    return np.flatnonzero(mask)


def seeds_of_rows(seed: int | Sequence[int | None] | None, rows: np.ndarray, num_envs: int) -> list[int | None]:
    """The seeds of the rows that are reset, in their order; None where a row goes on with its own stream.

    Args:
        seed: one number, to which the row's own is added; or one for each of the rows that are reset, or for all N.
        rows: the rows that are reset.
        num_envs: N.

    Raises:
        UserError: if there are as many as neither.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        return [None if seed is None else int(seed) + int(row) for row in rows]
    if len(seed) == num_envs:
        return [seed[row] for row in rows]
    if len(seed) != len(rows):
        raise UserError(f"seed: expected {len(rows)} or {num_envs} seeds, got {len(seed)}")
    return list(seed)
