"""Demonstrations that a function makes while they are learned from: they never end and are stored nowhere."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from irl_ray.data.trajectories import Trajectories
from irl_ray.errors import UserError
from irl_ray.seeding import torch_seed
from irl_ray.worlds.world import World

POOL = 8  # batches that are made at a time, which is faster for small ones
EXPECTED = "observation, action, length, and perhaps subgoal and leg"


def names_function(source: str) -> bool:
    """Whether it reads as `module:function`."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", source) is not None


def imported(source: str) -> Callable[..., Any]:
    """What `module:function` names.

    Raises:
        UserError: if it cannot be imported.
    """
    module, _, name = source.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{source}: cannot be imported: {error}") from None


class FunctionStream:
    """Trajectories that `function(count, random, **settings)` makes, `random` being a NumPy generator.

    It gives arrays: `observation` [N, T+1, ...] and `action` [N, T, ...] as models read and give them, `length` [N],
    the steps of each walk, and, where it knows them, `subgoal` and `leg` [N, T]. What lies beyond a walk's length does
    not matter.

    Args:
        world: whose settings it is called with.
        source: `module:function`.
        truth: whether its labels are read, for analysis.

    Raises:
        UserError: if it cannot be imported or called, and later if what it gives does not fit the world.
    """

    def __init__(self, world: World, source: str, truth: bool = False):
        self.world, self._source, self._function = world, source, imported(source)
        self._settings, self._truth = dict(getattr(world, "options", world.settings)), truth and world.num_subgoals > 0
        try:
            inspect.signature(self._function).bind(1, None, **self._settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: cannot be called with env_config {self._settings}: {error}") from None

    def sample(self, count: int, random: torch.Generator) -> Trajectories:
        """So many trajectories; other seeds than those of `batches` make others."""
        seed = torch.randint(2**62, (1,), generator=random).item()
        return self._made(count, seed)

    def batches(self, size: int, seed: int, *key: str | int, start: int = 0) -> Iterator[Trajectories]:
        """Training batches for ever; batch i depends on (size, seed, key, i) alone, so runs can resume at i."""
        pool, skip = start // POOL, start % POOL
        while True:
            made = self._made(size * POOL, torch_seed(seed, "demonstrations", *key, pool))
            for rows in torch.arange(len(made)).split(size)[skip:]:
                yield made.select(rows)
            pool, skip = pool + 1, 0

    def _made(self, count: int, seed: int) -> Trajectories:
        made = self._function(count, np.random.default_rng(seed), **self._settings)
        if not isinstance(made, Mapping) or not {"observation", "action", "length"} <= set(made):
            told = ", ".join(made) if isinstance(made, Mapping) else type(made).__name__
            raise UserError(f"{self._source}: expected arrays by the names {EXPECTED}, got {told}")
        length, action, observation = (
            self._whole(made, "length"),
            self._array(made, "action"),
            self._array(made, "observation"),
        )
        shape = tuple(action.shape[:2])
        if shape[0] != count or length.shape != (count,) or observation.shape[:2] != (count, shape[1] + 1):
            raise UserError(
                f"{self._source}: expected {count} walks, with one observation more than actions, got arrays of shape "
                + ", ".join(f"{tuple(a.shape)} ({name})" for name, a in
                            (("observation", observation), ("action", action), ("length", length)))
            )  # fmt: skip
        longest = int(length.max())
        if int(length.min()) < 1 or longest > min(shape[1], self.world.horizon):
            raise UserError(
                f"{self._source}: expected walks of 1 to {self.world.horizon} steps, got lengths {int(length.min())} "
                f"to {longest} in {shape[1]} steps"
            )
        mask = torch.arange(longest) < length[:, None]
        action, observation = action[:, :longest], observation[:, : longest + 1]
        self._check("action", action[mask], self.world.action_space)
        seen = torch.arange(longest + 1) <= length[:, None]
        self._check("observation", observation[seen], self.world.observation_space)
        labels = {key: self._label(made, key, mask) for key in ("subgoal", "leg")}
        if int(labels["subgoal"].max()) >= self.world.num_subgoals > 0:
            told = f"labels up to {int(labels['subgoal'].max())}, the world has num_subgoals {self.world.num_subgoals}"
            raise UserError(f"{self._source}: subgoal: {told}")
        task = torch.full((count,), -1)
        return Trajectories(self.world, observation, action, mask, task, labels["leg"].clamp(min=0), labels["subgoal"])

    def _array(self, made: Mapping[str, Any], name: str) -> torch.Tensor:
        space = self.world.action_space if name == "action" else self.world.observation_space
        whole = not isinstance(space, gym.spaces.Box) if name == "action" else self.world.discrete
        array = np.asarray(made[name])
        if array.ndim < 2 or array.shape[2:] != space.shape or (whole and array.dtype.kind not in "iub"):
            raise UserError(
                f"{self._source}: {name}: expected [N, T, ...] of {space}, got {array.dtype} of shape {array.shape}"
            )
        return torch.as_tensor(array.astype(np.int64 if whole else np.float32))

    def _whole(self, made: Mapping[str, Any], name: str) -> torch.Tensor:
        array = np.asarray(made[name])
        if array.dtype.kind not in "iu":
            raise UserError(f"{self._source}: {name}: expected whole numbers, got {array.dtype}")
        return torch.as_tensor(array.astype(np.int64))

    def _label(self, made: Mapping[str, Any], name: str, mask: torch.Tensor) -> torch.Tensor:
        if name not in made or not self._truth:
            return torch.full(mask.shape, -1)
        label = self._whole(made, name)
        if label.dim() != 2 or len(label) != len(mask) or label.shape[1] < mask.shape[1]:
            raise UserError(f"{self._source}: {name}: expected one for each step, got shape {tuple(label.shape)}")
        label = label[:, : mask.shape[1]]
        if (label < -1)[mask].any():
            raise UserError(
                f"{self._source}: {name}: labels from {int(label[mask].min())}; expected -1, unknown, or more"
            )
        return label.masked_fill(~mask, -1)

    def _check(self, name: str, values: torch.Tensor, space: gym.Space) -> None:
        """Refuses values [n, ...] that are not finite, or not among a space's choices."""
        if isinstance(space, gym.spaces.Box):
            if not torch.isfinite(values).all():
                raise UserError(f"{self._source}: {name}: some are not finite")
            return
        sizes = torch.as_tensor(np.asarray(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec))
        if not ((values >= 0) & (values < sizes)).all():
            raise UserError(f"{self._source}: {name}: some lie outside of {space}, counted from 0")
