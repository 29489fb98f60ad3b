"""What base models are trained to predict of a pin-pad's next observation, beside actions (Eq. 5's second term)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from irl_ray.data.trajectories import Trajectories
from irl_ray.models.sequence_model import BaseModel
from irl_ray.worlds.pinpad.walks import arrivals, directions, entered

STATIC_EVERY = 4  # static entities do not move: their loss is taken on every fourth step


def gridworld_terms(base: BaseModel, top: Tensor, batch: Trajectories) -> dict[str, Tensor]:
    """Sums over steps, in nats: -log p of the agent's next cell ("observation"), and of the cells of colours and walls
    ("static", mean over them; ours)."""
    mask, hidden = batch.mask, base.norm(top)
    logits = base.agent_head(hidden[mask])
    agent = F.cross_entropy(logits, batch.observation[:, 1:, -1][mask], reduction="sum")
    some = mask[:, ::STATIC_EVERY]
    cells = batch.observation[:, :-1:STATIC_EVERY, :-1][some]
    logits = base.static_head(hidden[:, ::STATIC_EVERY][some]).unflatten(-1, (cells.shape[1], -1))
    static = F.cross_entropy(logits.flatten(0, 1), cells.flatten(), reduction="sum")
    return {"observation": agent, "static": static * (STATIC_EVERY / max(1, cells.shape[1]))}


def ant_terms(base: BaseModel, top: Tensor, batch: Trajectories) -> dict[str, Tensor]:
    """Sums over steps: of a Gaussian of unit variance around o_t plus what the model says will change, half the squared
    error ("observation"); in nats, of the cells that are entered ("cell")."""
    change = (batch.observation[:, 1:] - batch.observation[:, :-1])[batch.mask]
    moved = 0.5 * (base.observation_head(base.norm(top)[batch.mask]) - change).square().sum()
    return {"observation": moved, "cell": cell_nll(base, top, batch)}


def cell_nll(base: BaseModel, top: Tensor, batch: Trajectories) -> Tensor:
    """Sum over the steps on which the ant is new in its cell: -log p of the cell it enters next, in nats.

    The observation term of Eq. 5 on the scale of cells (ours): what will be seen there next.

    Args:
        base: its head tells the direction in which the ant leaves its cell.
        top: e_L [B, T, d] on the trajectories of `batch`.
        batch: the ant's trajectories.
    """
    new = entered(batch)
    logits = base.direction_head(base.norm(top[new]))
    return F.cross_entropy(logits, directions(batch)[new], reduction="sum")


def arrival_nll(base: BaseModel, batch: Trajectories) -> float:
    """Mean of -log p of the direction in which the ant leaves a colour that it has just reached, in nats."""
    there = arrivals(batch)
    top = base.upper(base.embed(batch.observation[:, :-1]), 0)[there]
    return float(F.cross_entropy(base.direction_head(base.norm(top)), directions(batch)[there]))
