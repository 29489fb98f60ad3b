"""What walks on a pin-pad tell: where the agent is, which cells it enters, which way it goes, and what it is after."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.worlds.pinpad.senses import ant_cells


def target(batch: Trajectories) -> Tensor:
    """int64 [B, T]: the colour that is gone for, -1 on padding. Ground truth."""
    longest = max(map(len, batch.world.tasks))
    tasks = torch.tensor([(*t, *[-1] * (longest - len(t))) for t in batch.world.tasks], device=batch.leg.device)
    return tasks[batch.task[:, None], batch.leg.clamp(max=longest - 1)].masked_fill(~batch.mask, -1)


def agent_cells(batch: Trajectories) -> Tensor:
    """int64 [B, T+1]: the cell the agent is in."""
    if batch.observation.dtype.is_floating_point:
        return ant_cells(batch.observation, batch.world.grid_size)
    return batch.observation[..., -1]


def entered(batch: Trajectories) -> Tensor:
    """bool [B, T]: steps on which the agent is new in its cell, the first one included."""
    cells = agent_cells(batch)[:, :-1]
    return F.pad(cells[:, 1:] != cells[:, :-1], (1, 0), value=True) & batch.mask


def at_entries(batch: Trajectories) -> Trajectories:
    """The same walks seen only where a cell is entered: about one of the ant's steps in seven."""
    return batch.at(entered(batch))


def directions(batch: Trajectories) -> Tensor:
    """int64 [B, T]: 0 up, 1 right, 2 down, 3 left. The action in the gridworld; of the ant, the direction of the next
    cell it enters."""
    if not batch.observation.dtype.is_floating_point:
        return batch.action
    cells, size = agent_cells(batch), batch.world.grid_size
    steps = torch.arange(cells.shape[1] - 1, device=cells.device)
    moved = (cells[:, 1:] != cells[:, :-1]) & batch.mask
    following = torch.where(moved, steps, len(steps) - 1).flip(1).cummin(1).values.flip(1)
    step = cells.gather(1, following + 1) - cells.gather(1, following)
    return torch.where(step == -size, 0, torch.where(step == 1, 1, torch.where(step == size, 2, 3)))


def target_cells(batch: Trajectories) -> Tensor:
    """int64 [B, T]: the cell in which the present leg ends."""
    new_leg = batch.leg[:, 1:] != batch.leg[:, :-1]
    last = torch.ones_like(batch.mask)
    last[:, :-1] = new_leg | ~batch.mask[:, 1:]
    steps = torch.arange(batch.mask.shape[1])
    end = torch.where(last, steps, batch.mask.shape[1]).flip(1).cummin(1).values.flip(1)
    return agent_cells(batch)[:, 1:].gather(1, end.clamp(max=batch.mask.shape[1] - 1))


def target_places(batch: Trajectories) -> Tensor:
    """int64 [B, T, 2]: row and column of the cell in which the present leg ends."""
    cell, size = target_cells(batch), batch.world.grid_size
    return torch.stack([cell // size, cell % size], -1)


def arrivals(batch: Trajectories) -> Tensor:
    """bool [B, T]: the first steps after a colour of the task was reached."""
    return F.pad(batch.leg[:, 1:] != batch.leg[:, :-1], (1, 0)) & batch.mask
