"""Internal reinforcement learning: steer a frozen sequence model by codes found without labels.

`import irl_ray` needs torch, gymnasium and numpy; Ray is imported only by what runs on it.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import irl_ray.internal  # noqa: F401  and the internal one
import irl_ray.worlds.babyai  # noqa: F401
import irl_ray.worlds.ogbench  # noqa: F401
import irl_ray.worlds.pinpad  # noqa: F401  registers the environments with Gymnasium

# RLlib imports dm_control where that is installed, which tries for a screen and tells that there is none.
warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")

__version__ = "0.2.0"

_LAZY = {
    "load_agent": "irl_ray.internal.agent",
    "Agent": "irl_ray.internal.agent",
    "UserError": "irl_ray.errors",
    "Pretrain": "irl_ray.phases.pretrain",
    "pretrain": "irl_ray.phases.run",
    "discover": "irl_ray.phases.run",
    "BaseModel": "irl_ray.models.sequence_model",
    "World": "irl_ray.worlds.world",
    "PretrainConfig": "irl_ray.phases.pretrain",
    "Discover": "irl_ray.phases.discover",
    "DiscoverConfig": "irl_ray.phases.discover",
    "InternalRL": "irl_ray.rllib.algorithms",
    "InternalRLConfig": "irl_ray.rllib.algorithms",
    "RawRL": "irl_ray.rllib.algorithms",
    "RawRLConfig": "irl_ray.rllib.algorithms",
    "register_everything": "irl_ray.rllib.trainables",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'irl_ray' has no attribute {name!r}")
