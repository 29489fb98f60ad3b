"""Rolling a base model out in an environment while something steers its residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irl_ray.envs.gridworld import GridPinpadVectorEnv
from irl_ray.models.sequence_model import SequenceModel
from irl_ray.seeding import generator, torch_seed

Steer = Callable[[Tensor, dict[str, Any]], Tensor]


@dataclass
class RolloutSummary:
    """Outcome of complete episodes, each [episodes]."""

    success: np.ndarray
    legs: np.ndarray
    steps: np.ndarray

    @property
    def success_rate(self) -> float:
        return float(self.success.mean())


def sample_actions(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """Categorical samples by inversion: logits [N, A], uniforms [N] in [0, 1) -> int64 [N]."""
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    return (uniforms[:, None] >= cumulative[:, :-1]).sum(-1)


@torch.no_grad()
def roll_out(
    base: SequenceModel,
    world: dict[str, Any],
    episodes: int,
    seed: int,
    layer: int = 0,
    steer: Steer | None = None,
) -> RolloutSummary:
    """Runs `episodes` complete episodes side by side.

    Args:
        base: acts by sampling from its action head.
        world: settings of `GridPinpadVectorEnv`.
        episodes: number of episodes, all of which are run to their end.
        seed: of layouts, tasks and actions.
        layer: l at which `steer` acts.
        steer: maps (e_l [N, d], the environment's info) to the residual stream that goes on; the
            info holds ground truth, which is what this function is for: analysis.
    """
    env = GridPinpadVectorEnv(episodes, observation="cells", autoreset="disabled", **world)
    random = torch.Generator().manual_seed(torch_seed(seed, "rollout", "actions"))
    seeds = generator(seed, "rollout", "layouts").integers(2**62, size=episodes)
    observation, info = env.reset(seed=[int(s) for s in seeds])
    state = base.initial_state(episodes, env.world.horizon)
    success, running = np.zeros(episodes, bool), np.ones(episodes, bool)
    steps = np.zeros(episodes, np.int64)
    while running.any():
        residual = base.lower_step(torch.from_numpy(observation), state, layer)
        if steer is not None:
            residual = steer(residual, info)
        logits = base.action_logits(base.upper_step(residual, state, layer))
        action = sample_actions(logits, torch.rand(episodes, generator=random))
        observation, _, terminated, truncated, info = env.step(action.numpy())
        steps += running
        success |= info["success"]
        running &= ~(terminated | truncated)
    return RolloutSummary(success, info["leg"], steps)
