"""Pin-pad environments; importing this package registers them with Gymnasium."""

from __future__ import annotations

import gymnasium as gym

GRIDWORLD_ID = "irl_ray/GridPinpad-v0"

if GRIDWORLD_ID not in gym.registry:
    gym.register(
        GRIDWORLD_ID,
        entry_point="irl_ray.envs.gridworld:GridPinpadEnv",
        vector_entry_point="irl_ray.envs.gridworld:GridPinpadVectorEnv",
    )
