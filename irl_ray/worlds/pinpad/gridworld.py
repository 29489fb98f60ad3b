"""gridworld-pinpad (Appendix A): `irl_ray/GridPinpad-v0`, vector first."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad import rendering, rules
from irl_ray.worlds.pinpad.specs import GridworldSpec
from irl_ray.worlds.pinpad.vector import PinpadEnv, PinpadVectorEnv


class GridPinpadVectorEnv(PinpadVectorEnv):
    """N copies of the gridworld, stepped together in NumPy.

    A task is a sequence of colours to visit in order; the observation never contains it.

    Actions: `Discrete(4)`: 0 up, 1 right, 2 down, 3 left. Into a wall or off the grid: no-op.

    Observation, with E = O + W + 1 entities (colours, walls and, last, the agent):
        "onehot": `Box(0, 1, (E·G²,), float32)`, for each entity a one-hot over cells numbered row
            by row;
        "cells": `MultiDiscrete([G²] * E)`, the same as cell numbers; what the models here read.

    Visit: the agent enters a colour's cell *from another cell*; standing there is no visit.

    Reward: 1 when the last colour of the task is visited in order, else 0.

    Termination: the task is done, or a colour is visited that is not the next of the task.
    Truncation: after `horizon` steps.

    Reset: colours, walls and agent on distinct random cells. A layout in which some colour cannot
    be reached from the start or from another colour (other colours being obstacles) is drawn again (ours).

    Info: `success`, `task` (number in the list), `leg` (colours visited so far), `subgoal` (ground
    truth, for analysis only).

    Registered as `irl_ray/GridPinpad-v0`.

    Args:
        num_envs: N.
        preset: "tiny", "small", or "paper" and "medium" (both 7x7, eight colours, four walls, Table A1).
        observation: "onehot" (the paper's) or "cells".
        autoreset: "next_step" (Gymnasium's default), or "disabled": finished copies wait for
            `reset(options={"reset_mask": ...})`.
        render_mode: "ansi", "rgb_array" or "human"; draws the first copy.
        **world: `grid_size`, `num_colours`, `num_walls`, `horizon`, `tasks`,
            `colours_per_subgoal`; see `irl_ray.worlds.pinpad.rules.PinpadSpec`.

    Randomness: copy i owns a generator; `reset(seed=s)` seeds copy i with s + i, a list seeds each.
    """

    metadata = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 8}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        observation: str = "onehot",
        autoreset: str = "next_step",
        render_mode: str | None = None,
        **world: Any,
    ):
        spec = GridworldSpec.of(world)
        if observation not in ("onehot", "cells"):
            raise UserError(f"observation: expected 'onehot' or 'cells', got {observation!r}")
        self._onehot = observation == "onehot"
        if self._onehot:
            size = spec.num_cells * spec.num_entities
            self.single_observation_space = gym.spaces.Box(0.0, 1.0, (size,), np.float32)
        else:
            self.single_observation_space = gym.spaces.MultiDiscrete([spec.num_cells] * spec.num_entities)
        self.single_action_space = gym.spaces.Discrete(rules.NUM_ACTIONS)
        self._table = rules.next_cells(spec.grid_size)
        super().__init__(num_envs, spec, autoreset, render_mode)

    def _place(self, rows: np.ndarray, owners: list[np.random.Generator]) -> None:
        pass  # the agent is its cell

    def _move(self, actions: np.ndarray, waiting: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        position = self.entities[:, -1]
        cell = self._table[position, actions]
        return np.where(self._wall_at[self._rows, cell] | waiting, position, cell), {}

    def observe(self) -> np.ndarray:
        """The present observation of every copy."""
        if not self._onehot:
            return self.entities.copy()
        spec = self.world
        onehot = np.zeros((self.num_envs, spec.num_entities, spec.num_cells), np.float32)
        onehot[self._rows[:, None], np.arange(spec.num_entities), self.entities] = 1
        return onehot.reshape(self.num_envs, -1)

    def frame(self, beta: float | None = None, code: int | None = None) -> np.ndarray:
        return rendering.image(self.world, self.entities[0], self.caption(beta, code))

    def render(self) -> str | np.ndarray | None:
        """The first copy as text, as an RGB array, or on a window."""
        if self.render_mode == "ansi":
            return rendering.text(self.world, self.entities[0], self.caption())
        return super().render()


class GridPinpadEnv(PinpadEnv):
    """One copy of `GridPinpadVectorEnv`; same actions, observations, rewards and settings."""

    metadata = GridPinpadVectorEnv.metadata
    vector_class = GridPinpadVectorEnv
