"""The frozen model as an environment; importing this package registers it with Gymnasium."""

from __future__ import annotations

import gymnasium as gym

INTERNAL_ID = "irl_ray/Internal-v0"

if INTERNAL_ID not in gym.registry:
    gym.register(
        INTERNAL_ID,
        entry_point="irl_ray.internal.registered:InternalEnv",
        vector_entry_point="irl_ray.internal.registered:internal_vector_env",
    )
