"""OGBench's scene: a robot arm toggles two buttons, a drawer and a window in a hidden order (extra `ogbench`)."""

from __future__ import annotations

import gymnasium as gym

SCENE_ID = "irl_ray/SceneChain-v0"

if SCENE_ID not in gym.registry:
    gym.register(SCENE_ID, entry_point="irl_ray.worlds.ogbench.scene:SceneChain", max_episode_steps=240)
