"""BabyAI chains: balls of four colours in one room, to be picked up in a hidden order (extra `babyai`)."""

from __future__ import annotations

import gymnasium as gym

CHAIN_ID = "irl_ray/BabyAIChain-v0"

if CHAIN_ID not in gym.registry:
    gym.register(CHAIN_ID, entry_point="irl_ray.worlds.babyai.chain:BallChain", max_episode_steps=80)
