"""`irl_ray/Internal-v0`: the internal environment by name, for Gymnasium and for any algorithm of RLlib's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from irl_ray.errors import UserError, did_you_mean
from irl_ray.internal.internal_env import InternalVectorEnv
from irl_ray.models import weights


def internal_vector_env(
    num_envs: int = 1,
    *,
    metacontroller: str | None = None,
    world: Mapping[str, Any] | None = None,
    switch_threshold: float = 0.5,
    action_temperature: float = 1.0,
    clean_slate: bool = False,
    bound: float | None = None,
    autoreset: str = "next_step",
    **unknown: Any,
) -> InternalVectorEnv:
    """`InternalVectorEnv` from plain settings, as `env_config` has them.

    Args:
        num_envs: N.
        metacontroller: released name or folder of base model and metacontroller.
        world: settings of the world, laid over those that the weights were trained with, or over a `preset`;
            such as `{tasks: post_three_pairs}`.
        switch_threshold: beta at or above it asks for a new code (0.5 in the paper); at 0 every raw step does.
        action_temperature: at which the base model's actions are drawn (1 in the paper).
        clean_slate: whether the base model's memory starts anew with every code.
        bound: the code space is Box(-bound, bound) instead of unbounded. Algorithms that squash their actions, such as
            SAC, need it; codes are drawn from N(0, I) in training, so 2 or 3 covers them.
        autoreset: "next_step" or "disabled".
        **unknown: none; what else is given is named in an error.

    Raises:
        UserError: naming the setting.
    """
    known = ("metacontroller", "world", "switch_threshold", "action_temperature", "clean_slate", "bound", "autoreset")
    for name in unknown:
        raise UserError(f"env_config.{name}: unknown setting.{did_you_mean(name, known)} Known: {', '.join(known)}")
    if not _is_number(switch_threshold) or not 0 <= switch_threshold <= 1:
        raise UserError(f"env_config.switch_threshold: expected in [0, 1], got {switch_threshold!r}")
    for name, value in {"action_temperature": action_temperature, "bound": bound}.items():
        if not (_is_number(value) and value > 0) and not (name == "bound" and value is None):
            raise UserError(f"env_config.{name}: expected a number above 0, got {value!r}")
    if not isinstance(clean_slate, bool):
        raise UserError(f"env_config.clean_slate: expected true or false, got {clean_slate!r}")
    if not isinstance(metacontroller, str):
        raise UserError(f"env_config.metacontroller: expected a name or a folder of weights, got {metacontroller!r}")
    agent = weights.load(metacontroller, "metacontroller")
    env = InternalVectorEnv(
        agent,
        _world(agent, world or {}),
        num_envs,
        threshold=float(switch_threshold),
        action_temperature=float(action_temperature),
        clean_slate=clean_slate,
        autoreset=autoreset,
    )
    if bound is not None:
        shape = env.single_action_space.shape
        env.single_action_space = gym.spaces.Box(-float(bound), float(bound), shape, np.float32)
        env.action_space = gym.vector.utils.batch_space(env.single_action_space, num_envs)
    return env


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _world(agent: weights.Artefact, given: Mapping[str, Any]) -> Any:
    here = "env_config.world"
    if not isinstance(given, Mapping):
        raise UserError(f"{here}: expected a mapping of settings, such as {{tasks: post_three_pairs}}, got {given!r}")
    return agent.world.changed(given, here)


class InternalEnv(gym.Env):
    """One internal environment as a plain Gymnasium environment; settings are those of `internal_vector_env`."""

    metadata = {"render_modes": []}

    def __init__(self, *, render_mode: str | None = None, **settings: Any):
        if render_mode is not None:
            raise UserError(f"render_mode: this environment draws nothing, expected None, got {render_mode!r}")
        self.render_mode = None
        self.vector = internal_vector_env(1, autoreset="disabled", **settings)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        observation, _ = self.vector.reset(seed=seed)
        return observation[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.vector.step(np.asarray(action, np.float32)[None])
        told = {name: value[0].item() for name, value in info.items() if not name.startswith("_")}
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), told

    def close(self) -> None:
        self.vector.close()
