"""Ground-truth controllers: can a linear change of the residual stream choose the subgoal (C.3)?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.data.gridworld import Trajectories
from irl_ray.internal.rollout import roll_out
from irl_ray.models.sequence_model import SequenceModel


class SubgoalControllers(nn.Module):
    """One rank-r controller U^(g) per ground-truth subgoal (one-hot code, decoder = lookup)."""

    def __init__(self, num_subgoals: int, width: int, rank: int = 16):
        super().__init__()
        self.down = nn.Parameter(torch.randn(num_subgoals, rank, width) * width**-0.5)
        self.up = nn.Parameter(torch.randn(num_subgoals, rank, width) * rank**-0.5)

    def forward(self, residual: Tensor, subgoal: Tensor) -> Tensor:
        """e [..., d] and subgoals int64 [...] -> e + U^(g) e; subgoals below 0 change nothing."""
        chosen = F.one_hot(subgoal.clamp(min=0), len(self.down)).to(residual.dtype)
        chosen = chosen * (subgoal >= 0)[..., None]
        inner = torch.einsum("grd,...d,...g->...gr", self.down, residual, chosen)
        return residual + torch.einsum("...gr,grd->...d", inner, self.up)


def train_controllers(
    base: SequenceModel,
    layer: int,
    num_subgoals: int,
    batches: Iterable[Trajectories],
    steps: int,
    learning_rate: float = 1e-2,
    rank: int = 16,
) -> SubgoalControllers:
    """Fits controllers at `layer` of the frozen base to clean demonstrations (Table A8).

    Labels are used: this measures what a perfect metacontroller could do, and trains nothing that
    is released.
    """
    controllers = SubgoalControllers(num_subgoals, base.width, rank)
    optimizer = torch.optim.AdamW(controllers.parameters(), lr=learning_rate, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, batch in zip(range(steps), batches):
        with torch.no_grad():
            residual = base.lower(base.embed(batch.observation[:, :-1]), layer)
        with torch.enable_grad():
            logits = base.action_logits(base.upper(controllers(residual, batch.subgoal), layer))
            loss = F.cross_entropy(logits[batch.mask], batch.action[batch.mask])
            optimizer.zero_grad()
            loss.backward(inputs=list(controllers.parameters()))
            optimizer.step()
        schedule.step()
    return controllers.requires_grad_(False)


def control_success(
    base: SequenceModel,
    layer: int,
    controllers: SubgoalControllers,
    world: dict[str, Any],
    episodes: int,
    seed: int,
) -> float:
    """Success on a task when each subgoal's controller acts in its turn (Fig. 4)."""

    def steer(residual: Tensor, info: dict[str, Any]) -> Tensor:
        return controllers(residual, torch.from_numpy(info["subgoal"]))

    return roll_out(base, world, episodes, seed, layer, steer).success_rate
