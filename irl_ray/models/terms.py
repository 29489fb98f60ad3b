"""What a base model tells of the next observation where a world has no terms of its own: Eq. 5's second, by space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.models.encoder import symlog

if TYPE_CHECKING:
    from irl_ray.data.trajectories import Trajectories
    from irl_ray.models.sequence_model import BaseModel

POOLED = 8  # pixels along a side that are told as one


def heads_of(space: gym.Space) -> dict[str, int]:
    """The linear map of e_L that tells the next observation of a space: its name and size."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"observation_head": int(space.nvec.sum())}
    if len(space.shape) == 3:
        height, width, channels = space.shape
        return {"observation_head": -(-height // POOLED) * -(-width // POOLED) * channels}
    return {"observation_head": space.shape[0]}


def observation_term(base: BaseModel, top: Tensor, batch: Trajectories) -> Tensor:
    """Sum over steps, in nats: of whole numbers -log p of each; of numbers, and of pictures' means over squares of
    pixels, half the squared error of how they change (a Gaussian of unit variance).

    Args:
        base: with the head of `heads_of`.
        top: e_L [B, T, d].
        batch: the trajectories it has seen.
    """
    space, mask = base.world.observation_space, batch.mask
    told = base.observation_head(base.norm(top[mask]))
    before, after = batch.observation[:, :-1][mask], batch.observation[:, 1:][mask]
    if isinstance(space, gym.spaces.MultiDiscrete):
        logits = told.split(space.nvec.tolist(), -1)
        each = [F.cross_entropy(one, cell, reduction="sum") for one, cell in zip(logits, after.unbind(-1))]
        return torch.stack(each).sum()
    if len(space.shape) == 3:
        before, after = pooled(before), pooled(after)
    else:
        before, after = symlog(before), symlog(after)
    return 0.5 * (told - (after - before)).square().sum()


def pooled(picture: Tensor) -> Tensor:
    """Means of a picture, 0 to 1, over squares of pixels: int64 [n, H, W, C] -> [n, ...]."""
    shrunk = F.avg_pool2d(picture.movedim(-1, 1).float() / 255, POOLED, ceil_mode=True)
    return shrunk.flatten(1)
