"""Rolling a base model out in an environment while something steers its residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irl_ray.models.sequence_model import BaseModel
from irl_ray.models.state import reset_rows
from irl_ray.seeding import generator
from irl_ray.worlds.world import World

Steer = Callable[[Tensor, dict[str, Any]], Tensor]


@dataclass
class RolloutSummary:
    """Outcome of complete episodes: success, legs done, steps, each [episodes]; and the targets that were entered, in
    order, for each episode."""

    success: np.ndarray
    legs: np.ndarray
    steps: np.ndarray
    visits: list[list[int]]

    @property
    def success_rate(self) -> float:
        return float(self.success.mean())


@torch.no_grad()
def roll_out(
    base: BaseModel,
    world: World,
    episodes: int,
    seed: int,
    layer: int = 0,
    steer: Steer | None = None,
    temperature: float = 1.0,
    free: bool = False,
    anew: str | None = None,
) -> RolloutSummary:
    """Runs `episodes` complete episodes side by side.

    Args:
        base: acts by sampling from its action head.
        world: the world and its tasks.
        episodes: number of episodes, all of which are run to their end.
        seed: of layouts, tasks and actions.
        layer: l at which `steer` acts.
        steer: maps (e_l [N, d], the environment's info) to the residual stream that goes on; the
            info holds ground truth, which is what this function is for: analysis.
        temperature: at which actions are drawn.
        free: no task: visits neither end an episode nor count; they are listed in `visits`.
        anew: a column of the info, such as "subgoal": where it changes, the base model's memory starts anew.
    """
    env = world.rows(episodes)
    env.free = free
    random = generator(seed, "rollout", "actions")
    seeds = generator(seed, "rollout", "layouts").integers(2**62, size=episodes)
    observation, info = env.reset(seed=[int(s) for s in seeds])
    state = base.initial_state(episodes, env.world.horizon)
    success, running = np.zeros(episodes, bool), np.ones(episodes, bool)
    steps = np.zeros(episodes, np.int64)
    visits: list[list[int]] = [[] for _ in range(episodes)]
    before = info[anew] if anew else None
    while running.any():
        if anew:
            reset_rows(state, torch.from_numpy(info[anew] != before))
            before = info[anew]
        residual = base.lower_step(torch.from_numpy(observation), state, layer)
        if steer is not None:
            residual = steer(residual, info)
        inputs = base.action_inputs(base.upper_step(residual, state, layer))
        noise = torch.from_numpy(base.actions.noise(random, episodes))
        action = base.actions.sample(inputs, noise, temperature)
        observation, _, terminated, truncated, info = env.step(action.numpy())
        for row in np.flatnonzero(info["entered"] >= 0):
            visits[row].append(int(info["entered"][row]))
        steps += running
        success |= info["success"]
        running &= ~(terminated | truncated)
    env.close()
    return RolloutSummary(success, info["leg"], steps, visits)
