"""Named gridworlds: the presets `tiny`, `small` and `paper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irl_ray.config import build, with_preset
from irl_ray.envs.pinpad import PinpadSpec

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
    "paper": {
        "grid_size": 7,
        "num_colours": 8,
        "num_walls": 4,
        "horizon": 100,
        "tasks": "table_a1",
    },
}
POST_TRAINING_TASKS = {"tiny": "post_two_pairs", "small": "post_three_pairs", "paper": "post_a1"}


def gridworld_spec(values: Mapping[str, Any], where: str = "env_config") -> PinpadSpec:
    """The world that settings describe: a preset's values, changed by the keys given."""
    return build(PinpadSpec, with_preset(values, GRIDWORLDS, where), where)
