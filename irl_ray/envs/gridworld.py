"""gridworld-pinpad (Appendix A): `irl_ray/GridPinpad-v0`, vector first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from irl_ray.envs import pinpad, rendering
from irl_ray.envs.worlds import gridworld_spec
from irl_ray.errors import UserError


class GridPinpadVectorEnv(gym.vector.VectorEnv):
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
    be reached from the start or from another colour (other colours being obstacles) is drawn again.

    Info: `success`, `task` (number in the list), `leg` (colours visited so far), `subgoal` (ground
    truth, for analysis only).

    Registered as `irl_ray/GridPinpad-v0`.

    Args:
        num_envs: N.
        preset: "tiny", "small" or "paper" (7x7, eight colours, four walls, Table A1).
        observation: "onehot" (the paper's) or "cells".
        autoreset: "next_step" (Gymnasium's default), or "disabled": finished copies wait for
            `reset(options={"reset_mask": ...})`.
        render_mode: "ansi", "rgb_array" or "human"; draws the first copy.
        **world: `grid_size`, `num_colours`, `num_walls`, `horizon`, `tasks`,
            `colours_per_subgoal`; see `irl_ray.envs.pinpad.PinpadSpec`.

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
        self.world = spec = gridworld_spec(world)
        if observation not in ("onehot", "cells"):
            raise UserError(f"observation: expected 'onehot' or 'cells', got {observation!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = ", ".join(self.metadata["render_modes"])
            raise UserError(f"render_mode: expected one of {modes}, got {render_mode!r}")
        try:
            mode = {"next_step": AutoresetMode.NEXT_STEP, "disabled": AutoresetMode.DISABLED}[autoreset]
        except KeyError:
            raise UserError(f"autoreset: expected 'next_step' or 'disabled', got {autoreset!r}") from None
        self.metadata = {**type(self).metadata, "autoreset_mode": mode}
        self.num_envs, self.render_mode, self._onehot = num_envs, render_mode, observation == "onehot"
        self._autoreset = mode is AutoresetMode.NEXT_STEP
        if self._onehot:
            size = spec.num_cells * spec.num_entities
            self.single_observation_space = gym.spaces.Box(0.0, 1.0, (size,), np.float32)
        else:
            self.single_observation_space = gym.spaces.MultiDiscrete([spec.num_cells] * spec.num_entities)
        self.single_action_space = gym.spaces.Discrete(pinpad.NUM_ACTIONS)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

        legs = max(len(task) for task in spec.tasks)
        self._tasks = np.full((len(spec.tasks), legs + 1), -1)
        self._subgoals = np.full((len(spec.tasks), legs + 1), -1)
        for i, task in enumerate(spec.tasks):
            self._tasks[i, : len(task)] = task
            self._subgoals[i, : len(task)] = np.repeat(spec.task_subgoals(task), spec.colours_per_subgoal)
        self._task_lengths = np.array([len(task) for task in spec.tasks])
        self._table = pinpad.next_cells(spec.grid_size)
        self._rows = np.arange(num_envs)
        self._generators: list[np.random.Generator] | None = None
        self.entities = np.zeros((num_envs, spec.num_entities), np.int64)
        self.task, self.leg, self.elapsed = (np.zeros(num_envs, np.int64) for _ in range(3))
        self._colour_at = np.full((num_envs, spec.num_cells), -1)
        self._wall_at = np.zeros((num_envs, spec.num_cells), bool)
        self._finished = np.zeros(num_envs, bool)
        self._window: rendering.Window | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes in all copies, or in those of `options["reset_mask"]` (bool [N])."""
        mask = (options or {}).get("reset_mask")
        rows = self._rows if mask is None else np.flatnonzero(mask)
        if self._generators is None:
            self._generators = [np.random.default_rng() for _ in self._rows]
        if seed is not None:
            seeds = [seed + int(i) for i in rows] if isinstance(seed, int) else list(seed)
            if len(seeds) == self.num_envs and mask is not None:
                seeds = [seeds[i] for i in rows]
            if len(seeds) != len(rows):
                raise ValueError(f"seed: expected {len(rows)} or {self.num_envs} seeds, got {len(seeds)}")
            for row, one in zip(rows, seeds):
                if one is not None:
                    self._generators[row] = np.random.default_rng(one)
        self._restart(rows)
        return self.observe(), self._info(np.zeros(self.num_envs, bool))

    def _restart(self, rows: np.ndarray) -> None:
        spec = self.world
        owners = [self._generators[row] for row in rows]
        draw = lambda some: np.stack([owners[i].random(spec.num_cells) for i in some])  # noqa: E731
        if len(rows):
            self.entities[rows], _ = pinpad.sample_layouts(draw, len(rows), spec)
        self.task[rows] = [owner.integers(len(spec.tasks)) for owner in owners]
        self.leg[rows] = self.elapsed[rows] = 0
        self._finished[rows] = False
        self._colour_at[rows], self._wall_at[rows] = -1, False
        colours = self.entities[rows, : spec.num_colours]
        self._colour_at[rows[:, None], colours] = np.arange(spec.num_colours)
        self._wall_at[rows[:, None], self.entities[rows, spec.num_colours : -1]] = True

    def step(
        self, actions: np.ndarray, still: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every copy, but for those of the mask `still` [N], which do not move at all.

        Finished copies start anew (autoreset) or stay as they are.
        """
        actions = np.asarray(actions)
        waiting = self._finished.copy() if still is None else self._finished | still
        position = self.entities[:, -1]
        cell = self._table[position, actions]
        cell = np.where(self._wall_at[self._rows, cell] | waiting, position, cell)
        entered = np.where(cell != position, self._colour_at[self._rows, cell], -1)
        self.entities[:, -1] = cell
        right = (entered >= 0) & (entered == self._tasks[self.task, self.leg])
        self.leg += right
        self.elapsed += ~waiting
        success = (self.leg == self._task_lengths[self.task]) & ~waiting
        terminated = success | ((entered >= 0) & ~right)
        truncated = (self.elapsed >= self.world.horizon) & ~terminated & ~waiting
        over, self._finished = self._finished, self._finished | terminated | truncated
        if self._autoreset and over.any():
            self._restart(np.flatnonzero(over))
        if self.render_mode == "human":
            self.render()
        return self.observe(), success.astype(np.float64), terminated, truncated, self._info(success)

    def observe(self) -> np.ndarray:
        """The present observation of every copy."""
        if not self._onehot:
            return self.entities.copy()
        spec = self.world
        onehot = np.zeros((self.num_envs, spec.num_entities, spec.num_cells), np.float32)
        onehot[self._rows[:, None], np.arange(spec.num_entities), self.entities] = 1
        return onehot.reshape(self.num_envs, -1)

    def _info(self, success: np.ndarray) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, bool)
        info = {
            "success": success,
            "task": self.task.copy(),
            "leg": self.leg.copy(),
            "subgoal": self._subgoals[self.task, self.leg],
        }
        return {**info, **{f"_{name}": everyone for name in info}}

    def keep(self, rows: np.ndarray) -> None:
        """Shrinks the environment to the given copies, for samplers whose other episodes are over."""
        for name in ("entities", "task", "leg", "elapsed", "_colour_at", "_wall_at", "_finished"):
            setattr(self, name, getattr(self, name)[rows])
        self._generators = [self._generators[row] for row in rows]
        self.num_envs, self._rows = len(rows), np.arange(len(rows))

    def render(self) -> str | np.ndarray | None:
        """The first copy as text, as an RGB array, or on a window."""
        task = self.world.tasks[self.task[0]]
        if self.render_mode == "ansi":
            return rendering.text(self.world, self.entities[0], task, int(self.leg[0]))
        if self.render_mode in ("rgb_array", "human"):
            frame = rendering.image(self.world, self.entities[0], task, int(self.leg[0]))
            if self.render_mode == "rgb_array":
                return frame
            self._window = self._window or rendering.Window(self.metadata["render_fps"])
            self._window.show(frame)
        return None

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the window, if one was opened."""
        if self._window is not None:
            self._window.close()
            self._window = None


class GridPinpadEnv(gym.Env):
    """One copy of `GridPinpadVectorEnv`; same actions, observations, rewards and settings."""

    metadata = GridPinpadVectorEnv.metadata

    def __init__(self, *, render_mode: str | None = None, **settings: Any):
        self.vector = GridPinpadVectorEnv(1, autoreset="disabled", render_mode=render_mode, **settings)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.vector._generators = [self.np_random]
        observation, info = self.vector.reset()
        if self.render_mode == "human":
            self.render()
        return observation[0], _single(info)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.vector.step(np.array([action]))
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _single(info)

    def render(self) -> str | np.ndarray | None:
        return self.vector.render()

    def close(self) -> None:
        self.vector.close()


def _single(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value[0].item() for name, value in info.items() if not name.startswith("_")}
