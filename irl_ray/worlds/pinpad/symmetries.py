"""The eight symmetries of the square, under which a pin-pad stays a pin-pad.

A layout and a walk over it are turned and mirrored together; colours, and so what the walk was after, stay what they
are. The ant's body has the same symmetries: its place, its motion and the cells around it are turned, and its legs are
renamed, so that a turned walk is one that the ant could have walked.

Symmetry s of 0..7 swaps top and bottom where s is 4 or more, then turns s mod 4 quarters counterclockwise.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from irl_ray.worlds.pinpad.rules import PinpadSpec
from irl_ray.worlds.pinpad.senses import ANKLE_SIGN
from irl_ray.worlds.pinpad.specs import AntSpec

NUM_SYMMETRIES = 8


def turned(world: PinpadSpec, observation: Tensor, symmetry: Tensor) -> Tensor:
    """Observations [B, T, ...] of B walks as they would be, had each walk gone through its symmetry, int64 [B]."""
    if not isinstance(world, AntSpec):
        return _turned_cells(world.grid_size).to(observation.device)[symmetry[:, None, None], observation]
    plane, mirrored = _plane(symmetry, observation), symmetry >= 4
    # Entry by entry, as `AntPinpadVectorEnv` lists them. Swapped or negated, a value keeps its symlog.
    height, angle, axis, joints, linear, angular, speeds, places = observation.split(
        [1, 1, 3, 8, 3, 3, 8, observation.shape[-1] - 27], -1
    )
    upright = torch.where(mirrored[:, None, None], -1.0, 1.0).to(observation.dtype)

    def vector(v: Tensor) -> Tensor:
        return torch.cat([v[..., :2] @ plane, v[..., 2:]], -1)

    def pseudovector(v: Tensor) -> Tensor:
        """Of a rotation, which a mirror turns the other way."""
        return torch.cat([v[..., :2] @ plane, v[..., 2:]], -1) * upright

    pairs = places.unflatten(-1, (-1, 2)) @ plane[:, None]
    return torch.cat(
        [
            height,
            angle,
            pseudovector(axis),
            turned_joints(joints, symmetry),
            vector(linear),
            pseudovector(angular),
            turned_joints(speeds, symmetry),
            pairs.flatten(-2),
        ],
        -1,
    )


def turned_joints(joints: Tensor, symmetry: Tensor) -> Tensor:
    """Angles, velocities or actions of joints [B, T, 8] of ants that went through their symmetries, int64 [B]."""
    mirrored, sign = (symmetry >= 4)[:, None, None], joints.new_tensor(ANKLE_SIGN)
    hip, ankle = joints.unflatten(-1, (4, 2)).unbind(-1)
    # A mirror exchanges legs 1 and 4, and 2 and 3, whose hips swing the other way; a quarter turn takes leg i to i + 1.
    order = (torch.arange(4, device=joints.device) - symmetry[:, None]) % 4
    order = torch.where(mirrored[:, 0], 3 - order, order)[:, None].expand_as(hip)
    hip, ankle = hip.gather(-1, order), (ankle * sign).gather(-1, order) * sign
    return torch.stack([torch.where(mirrored, -hip, hip), ankle], -1).flatten(-2)


def _plane(symmetry: Tensor, like: Tensor) -> Tensor:
    """[B, 2, 2]: matrices by which a row (x, y), x to the right and y up, goes through its symmetry."""
    mirrors = like.new_tensor([[[1, 0], [0, 1]], [[1, 0], [0, -1]]])
    turns = like.new_tensor([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])
    return mirrors[symmetry // 4] @ turns[symmetry % 4]


@cache
def _turned_cells(grid_size: int) -> Tensor:
    """int64 [8, C]: where each symmetry takes each cell."""
    cells = torch.arange(grid_size**2).reshape(grid_size, grid_size)
    seen = [(cells.flip(0) if s >= 4 else cells).rot90(s % 4).flatten() for s in range(NUM_SYMMETRIES)]
    return torch.stack(seen).argsort(1)  # `seen` tells which cell comes to each place
