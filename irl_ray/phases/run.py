"""Phases in Python: each trains, measures its gates, and returns weights that can be saved and gone on from."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from irl_ray.models import weights
from irl_ray.models.weights import Artefact
from irl_ray.phases.discover import Discover, discover_config
from irl_ray.phases.pretrain import Pretrain, pretrain_config
from irl_ray.phases.training import Phase


def pretrain(env: str, data: str | os.PathLike[str] | None = None, **settings: Any) -> Artefact:
    """A base model that imitates demonstrations.

    Args:
        env: of a world, such as "my_worlds:Chain-v0".
        data: folder of its demonstrations, or module:function; None where the world makes them itself.
        **settings: see `PretrainConfig`; those of the world are in `world`.
    """
    told = {"data": os.fspath(data)} if data is not None else {}
    return run(Pretrain(pretrain_config({"env": env, **told, **settings})))


def discover(
    base: str | os.PathLike[str] | Artefact, data: str | os.PathLike[str] | None = None, **settings: Any
) -> Artefact:
    """A metacontroller inside of a base model, found without labels.

    Args:
        base: what `pretrain` gave, or the name or folder of weights.
        data: folder of clean demonstrations, or module:function; None where the world makes them itself.
        **settings: see `DiscoverConfig`.
    """
    told = {"data": os.fspath(data)} if data is not None else {}
    with tempfile.TemporaryDirectory() as folder:
        name = weights.save(base, Path(folder) / "base") if isinstance(base, Artefact) else base
        env = weights.described_world(name).id
        return run(Discover(discover_config({"env": env, "base": os.fspath(name), **told, **settings})))


def run(phase: Phase) -> Artefact:
    """Trains a phase to its end, with a line for each report, and measures its gates."""
    started = time.monotonic()
    while not phase.finished:
        told = {k: v for k, v in phase.step().items() if k not in ("step", "trajectories_per_s")}
        left = (time.monotonic() - started) * (phase.config.steps / phase.step_number - 1)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in told.items())
        print(f"{phase.name} {phase.step_number}/{phase.config.steps}  {shown}  eta {left:.0f}s", flush=True)
    return phase.finish(phase.measured())
