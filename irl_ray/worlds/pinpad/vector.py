"""What every pin-pad environment shares: tasks, visits, layouts, seeding, autoreset."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad import rendering, rules
from irl_ray.worlds.pinpad.rules import PinpadSpec
from irl_ray.worlds.rows import autoreset_mode, rows_to_reset, seeds_of_rows


class PinpadVectorEnv(gym.vector.VectorEnv):
    """N copies of a pin-pad world (Appendix A); subclasses say how an agent moves and what it sees.

    Attributes:
        world: what defines the world.
        entities: int64 [N, E], the cell of every colour, every wall and, last, the agent.
        distances: int16 [C, O, N] of `pinpad.shortest_distances`.
        task, leg, elapsed: int64 [N], number of the task, colours visited so far, steps so far.
        free: without a task: visits are told (`entered` in the info) but neither count nor end anything.
    """

    free = False

    per_row = ("entities", "task", "leg", "elapsed", "_colour_at", "_wall_at", "_finished")

    def __init__(self, num_envs: int, world: PinpadSpec, autoreset: str, render_mode: str | None):
        self.world = world
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = ", ".join(self.metadata["render_modes"])
            raise UserError(f"render_mode: expected one of {modes}, got {render_mode!r}")
        mode = autoreset_mode(autoreset)
        self.metadata = {**type(self).metadata, "autoreset_mode": mode}
        self._autoreset = mode is AutoresetMode.NEXT_STEP
        self.num_envs, self.render_mode = num_envs, render_mode
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

        legs = max(len(task) for task in world.tasks)
        self._tasks = np.full((len(world.tasks), legs + 1), -1)
        self._subgoals = np.full((len(world.tasks), legs + 1), -1)
        for i, task in enumerate(world.tasks):
            self._tasks[i, : len(task)] = task
            self._subgoals[i, : len(task)] = np.repeat(world.task_subgoals(task), world.colours_per_subgoal)
        self._task_lengths = np.array([len(task) for task in world.tasks])
        self._rows = np.arange(num_envs)
        self._generators: list[np.random.Generator] | None = None
        self.entities = np.zeros((num_envs, world.num_entities), np.int64)
        self.distances = np.zeros((world.num_cells, world.num_colours, num_envs), np.int16)
        self.task, self.leg, self.elapsed = (np.zeros(num_envs, np.int64) for _ in range(3))
        self._colour_at = np.full((num_envs, world.num_cells), -1)
        self._wall_at = np.zeros((num_envs, world.num_cells), bool)
        self._finished = np.zeros(num_envs, bool)
        self._outcome = ""  # of the first copy's episode, for its picture
        self._window: rendering.Window | None = None

    @abstractmethod
    def observe(self) -> np.ndarray:
        """The present observation of every copy."""

    @abstractmethod
    def _place(self, rows: np.ndarray, owners: list[np.random.Generator]) -> None:
        """Puts the agents of new episodes where `entities` says."""

    @abstractmethod
    def _move(self, actions: np.ndarray, waiting: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Acts in all rows that do not wait: the cell each agent is in now [N] (-1: off the grid),
        and, by cause, the rows whose episode ends by the movement itself, bool [N] each."""

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes in all copies, or in those of `options["reset_mask"]` (bool [N])."""
        rows = rows_to_reset(options, self.num_envs)
        if self._generators is None:
            self._generators = [np.random.default_rng() for _ in self._rows]
        for row, one in zip(rows, seeds_of_rows(seed, rows, self.num_envs)):
            if one is not None:
                self._generators[row] = np.random.default_rng(one)
        self._restart(rows)
        return self.observe(), self._info(np.zeros(self.num_envs, bool), {"entered": np.full(self.num_envs, -1)})

    def _restart(self, rows: np.ndarray) -> None:
        world = self.world
        owners = [self._generators[row] for row in rows]
        draw = lambda some: np.stack([owners[i].random(world.num_cells) for i in some])  # noqa: E731
        if len(rows):
            self.entities[rows], self.distances[:, :, rows] = rules.sample_layouts(draw, len(rows), world)
        self.task[rows] = [owner.integers(len(world.tasks)) for owner in owners]
        self.leg[rows] = self.elapsed[rows] = 0
        self._finished[rows] = False
        self._outcome = "" if 0 in rows else self._outcome
        self._colour_at[rows], self._wall_at[rows] = -1, False
        colours = self.entities[rows, : world.num_colours]
        self._colour_at[rows[:, None], colours] = np.arange(world.num_colours)
        self._wall_at[rows[:, None], self.entities[rows, world.num_colours : -1]] = True
        self._place(rows, owners)

    def step(
        self, actions: np.ndarray, still: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every copy, but for those of the mask `still` [N], which do not move at all.

        Finished copies start anew (autoreset) or stay as they are.
        """
        waiting = self._finished.copy() if still is None else self._finished | still
        position = self.entities[:, -1].copy()
        cell, ends = self._move(np.asarray(actions), waiting)
        on_grid = np.where(cell < 0, position, cell)
        entered = np.where((on_grid != position) & ~waiting, self._colour_at[self._rows, on_grid], -1)
        self.entities[:, -1] = on_grid
        self.elapsed += ~waiting
        success, wrong = (np.zeros((2, self.num_envs), bool)) if self.free else self._judge(entered)
        success &= ~waiting
        terminated = success | wrong
        for rows in ends.values():
            terminated |= rows
            success &= ~rows
        truncated = (self.elapsed >= self.world.horizon) & ~terminated & ~waiting
        over, self._finished = self._finished, self._finished | terminated | truncated
        if self._finished[0] and not waiting[0]:
            causes = {"done": success, "wrong_colour": wrong, **ends, "time": truncated}
            self._outcome = next(name for name, rows in causes.items() if rows[0]).replace("_", " ")
        if self._autoreset and over.any():
            self._restart(np.flatnonzero(over))
        if self.render_mode == "human":
            self.render()
        reward = success.astype(np.float64)
        return (
            self.observe(),
            reward,
            terminated,
            truncated,
            self._info(success, {"entered": entered, "wrong_colour": wrong, **ends}),
        )

    def _judge(self, entered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts visits: which rows have done their task, which entered a wrong colour; bool [N]."""
        right = (entered >= 0) & (entered == self._tasks[self.task, self.leg])
        self.leg += right
        return self.leg == self._task_lengths[self.task], (entered >= 0) & ~right

    def _info(self, success: np.ndarray, ends: dict[str, np.ndarray]) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, bool)
        info = {
            "success": success,
            "task": self.task.copy(),
            "leg": self.leg.copy(),
            "subgoal": self._subgoals[self.task, self.leg],
            "target": self._tasks[self.task, self.leg],
            **ends,
        }
        return {**info, **{f"_{name}": everyone for name in info}}

    def keep(self, rows: np.ndarray) -> None:
        """Shrinks the environment to the given copies, for samplers whose other episodes are over."""
        for name in self.per_row:
            setattr(self, name, getattr(self, name)[rows])
        self.distances = self.distances[:, :, rows]
        self._generators = [self._generators[row] for row in rows]
        self.num_envs, self._rows = len(rows), np.arange(len(rows))

    def caption(self, beta: float | None = None, code: int | None = None) -> rendering.Caption:
        """What is told under a picture of the first copy."""
        task, horizon = self.world.tasks[self.task[0]], self.world.horizon
        return rendering.Caption(task, int(self.leg[0]), int(self.elapsed[0]), horizon, self._outcome, beta, code)

    @abstractmethod
    def frame(self, beta: float | None = None, code: int | None = None) -> np.ndarray:
        """uint8 [H, W, 3]: the first copy; under it task, step and, in the end, the outcome.

        Args:
            beta: the switch gate, where there is one.
            code: number of the code in force, counted from 1.
        """

    def render(self) -> Any:
        """The first copy as an RGB array, or on a window."""
        if self.render_mode == "rgb_array":
            return self.frame()
        if self.render_mode == "human":
            self._window = self._window or rendering.Window(self.metadata["render_fps"])
            self._window.show(self.frame())
        return None

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the window, if one was opened."""
        if self._window is not None:
            self._window.close()
            self._window = None


class PinpadEnv(gym.Env):
    """One copy of a vector environment as a plain Gymnasium environment.

    Subclasses name the vector environment in `vector_class`; actions, observations, rewards and
    settings are its own.
    """

    vector_class: type[PinpadVectorEnv]

    def __init__(self, *, render_mode: str | None = None, **settings: Any):
        self.vector = self.vector_class(1, autoreset="disabled", render_mode=render_mode, **settings)
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

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.vector.step(np.array([action]))
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _single(info)

    def render(self) -> Any:
        return self.vector.render()

    def close(self) -> None:
        self.vector.close()


def _single(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value[0].item() for name, value in info.items() if not name.startswith("_")}
