"""A world of thirty lines, for the tests: levers on a line, to be pulled in a hidden order."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


class Chain(gym.Env):
    """Walk to levers on a line and pull them in the order of a task that is not told; a wrong one ends the episode."""

    def __init__(self, size: int = 7, orders: Any = ORDERS, render_mode: str | None = None):
        self.size, self.orders, self.render_mode = size, [tuple(order) for order in orders], render_mode
        self.observation_space = gym.spaces.MultiDiscrete([size] * 4)  # three levers, and oneself
        self.action_space = gym.spaces.Discrete(3)  # left, right, pull

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cells = self.np_random.permutation(self.size)[:4]
        self.order, self.done = self.orders[self.np_random.integers(len(self.orders))], 0
        return self.cells.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if action < 2:
            self.cells[3] = np.clip(self.cells[3] + (-1, 1)[action], 0, self.size - 1)
            return self.cells.copy(), 0.0, False, False, {}
        right = self.cells[3] == self.cells[self.order[self.done]]
        self.done += int(right)
        success = self.done == len(self.order)
        return self.cells.copy(), float(success), bool(success or not right), False, {}

    def expert(self) -> int:
        """The action that the task asks for."""
        away = self.cells[self.order[self.done]] - self.cells[3]
        return 2 if away == 0 else int(away > 0)


gym.register("Chain-v0", entry_point="chain_world:Chain", max_episode_steps=40)


def demonstrations(folder: Any, count: int, seed: int = 0) -> None:
    """Writes the expert's episodes, one .npz each."""
    for number in range(count):
        env = Chain()
        observations, actions, over = [env.reset(seed=seed + number)[0]], [], False
        subgoals = []
        while not over:
            subgoals.append(env.order[env.done])
            actions.append(env.expert())
            observation, reward, over, _, _ = env.step(actions[-1])
            observations.append(observation)
        np.savez(
            f"{folder}/{number:05d}.npz",
            observations=observations,
            actions=actions,
            rewards=np.eye(len(actions))[-1],
        )
