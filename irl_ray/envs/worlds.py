"""Named worlds: the presets `tiny`, `small` and `paper` of every environment, and how to open one.

The gridworld's `medium` is the world of `paper`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from irl_ray.config import build, to_plain, with_preset
from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from irl_ray.envs.vector import PinpadVectorEnv

GRIDWORLD_ID, ANT_ID, GUIDED_ANT_ID = "irl_ray/GridPinpad-v0", "irl_ray/AntPinpad-v0", "irl_ray/AntPinpadGuided-v0"

_TABLE_A1 = {"grid_size": 7, "num_colours": 8, "num_walls": 4, "horizon": 100, "tasks": "table_a1"}
GRIDWORLDS: dict[str, dict[str, Any]] = {
    "tiny": {
        "grid_size": 4,
        "num_colours": 4,
        "num_walls": 0,
        "horizon": 30,
        "tasks": "two_pairs",
    },
    "small": {
        "grid_size": 5,
        "num_colours": 6,
        "num_walls": 1,
        "horizon": 60,
        "tasks": "three_pairs",
    },
    "medium": _TABLE_A1,  # smaller models and our settings, in the paper's world
    "paper": _TABLE_A1,
}
_ANT = {"grid_size": 4, "num_colours": 4, "num_walls": 1, "tasks": "table_a2", "colours_per_subgoal": 1}
ANTS: dict[str, dict[str, Any]] = {
    "tiny": {**_ANT, "grid_size": 3, "num_walls": 0, "horizon": 60, "control": "position", "yaw": "aligned"},
    "small": {**_ANT, "horizon": 200, "control": "position", "yaw": "aligned"},
    "paper": {**_ANT, "horizon": 500, "control": "torque", "yaw": "random"},
}
POST_TRAINING_TASKS = {
    "tiny": "post_two_pairs", "small": "post_three_pairs", "medium": "post_a1", "paper": "post_a1",
}  # fmt: skip
NUM_PROPRIOCEPTION = 27  # the ant's height, quaternion, joint angles; velocities of torso and joints
NUM_BODY = NUM_PROPRIOCEPTION + 2  # and the torso's global x and y
NUM_JOINTS = 8
# Of a bent ankle's angle, legs 1 to 4. Turning the ant by a quarter maps leg i onto leg i + 1, and the sign of its
# ankle's angle onto that of the next.
ANKLE_SIGN = (1.0, -1.0, -1.0, 1.0)
CONTROL_STEPS = {"torque": 2, "position": 4}  # physics steps of 25 ms per action


@dataclass(frozen=True)
class AntSpec(PinpadSpec):
    """What defines an ant-pinpad world; cell size and control step are not in the paper.

    Attributes:
        cell_size: side of a cell in metres.
        control: "torque" (the paper's, an action every 0.05 s) or "position" (ours for the small
            scale: joint targets, an action every 0.1 s).
        yaw: "random" (the paper's) or "aligned": the torso starts within 0.1 rad of the grid's axes.
    """

    colours_per_subgoal: int = 1
    cell_size: float = 1.5
    control: str = "torque"
    yaw: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("control", tuple(CONTROL_STEPS)), ("yaw", ("random", "aligned"))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0.5 <= self.cell_size <= 10:
            raise UserError(f"cell_size: expected 0.5 to 10 metres, got {self.cell_size}")


WORLDS: dict[str, tuple[type[PinpadSpec], dict[str, dict[str, Any]]]] = {
    GRIDWORLD_ID: (PinpadSpec, GRIDWORLDS),
    ANT_ID: (AntSpec, ANTS),
}


def world_spec(env: str, values: Mapping[str, Any], where: str = "env_config") -> PinpadSpec:
    """The world that settings describe: a preset's values, changed by the keys given."""
    if env not in WORLDS:
        raise UserError(f"env: {env!r} is unknown.{did_you_mean(env, WORLDS)} Expected one of {', '.join(WORLDS)}")
    kind, presets = WORLDS[env]
    return build(kind, with_preset(values, presets, where), where)


def preset_of(
    values: Mapping[str, Any], presets: Mapping[str, Mapping[str, Mapping[str, Any]]], where: str
) -> tuple[str, dict[str, Any]]:
    """The environment that settings name by `env` (the gridworld unless given), and the settings
    laid over the preset of that environment that they name by `preset`."""
    env = values.get("env", GRIDWORLD_ID)
    if env not in presets:
        raise UserError(f"env: {env!r} is unknown.{did_you_mean(env, presets)} Expected one of {', '.join(presets)}")
    rest = {key: value for key, value in values.items() if key != "env"}
    return env, with_preset(rest, presets[env], where)


def gridworld_spec(values: Mapping[str, Any], where: str = "env_config") -> PinpadSpec:
    """A gridworld by its settings."""
    return world_spec(GRIDWORLD_ID, values, where)


def ant_spec(values: Mapping[str, Any], where: str = "env_config") -> AntSpec:
    """An ant's world by its settings."""
    return world_spec(ANT_ID, values, where)


def env_id(world: PinpadSpec) -> str:
    """The environment that a world belongs to."""
    return next(name for name, (kind, _) in WORLDS.items() if type(world) is kind)


def ant_observation_size(world: AntSpec) -> int:
    """Entries of the ant's observation."""
    return NUM_BODY + 2 * (world.num_colours + world.num_walls) + 2


def world_differences(wanted: PinpadSpec, given: PinpadSpec) -> str:
    """What keeps a model of one world from observing and acting in another; empty if nothing does."""
    if type(wanted) is not type(given):
        return f"the environment is {env_id(given)}, expected {env_id(wanted)}"
    keys = ("grid_size", "num_colours", "num_walls", "cell_size", "control", "yaw")
    pairs = [(key, getattr(wanted, key, None), getattr(given, key, None)) for key in keys]
    return ", ".join(f"{key} is {b}, expected {a}" for key, a, b in pairs if a != b)


def vector_env(world: PinpadSpec, num_envs: int, **options: Any) -> PinpadVectorEnv:
    """N copies of a world as the models here read it; finished copies wait for a reset.

    Args:
        world: the world.
        num_envs: N.
        **options: of the environment, such as `threads` for the ant.
    """
    name = env_id(world)
    if name == GRIDWORLD_ID:
        options["observation"] = "cells"
    return gym.make_vec(name, num_envs=num_envs, autoreset="disabled", **options, **to_plain(world))
