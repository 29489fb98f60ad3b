"""Ground-truth controllers: can a linear change of the residual stream choose the subgoal (C.3)?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irl_ray.data.trajectories import Trajectories
from irl_ray.envs.pinpad import PinpadSpec
from irl_ray.internal.rollout import roll_out
from irl_ray.models.sequence_model import SequenceModel, SequenceModelConfig


class SubgoalControllers(nn.Module):
    """One controller U^(g) per ground-truth subgoal (one-hot code, decoder = lookup).

    Args:
        num_subgoals: controllers.
        width: d.
        rank: of U^(g); None for full matrices.
    """

    def __init__(self, num_subgoals: int, width: int, rank: int | None = 16):
        super().__init__()
        inner = width if rank is None else rank
        self.down = nn.Parameter(torch.randn(num_subgoals, inner, width) * width**-0.5)
        self.up = None if rank is None else nn.Parameter(torch.randn(num_subgoals, rank, width) * rank**-0.5)

    def forward(self, residual: Tensor, subgoal: Tensor) -> Tensor:
        """e [..., d] and subgoals int64 [...] -> e + U^(g) e; subgoals below 0 change nothing."""
        chosen = F.one_hot(subgoal.clamp(min=0), len(self.down)).to(residual.dtype)
        chosen = chosen * (subgoal >= 0)[..., None]
        parts = (residual @ self.down.flatten(0, 1).T).unflatten(-1, (len(self.down), -1))
        inner = (chosen[..., None, :] @ parts).squeeze(-2)
        if self.up is None:
            return residual + inner
        return residual + torch.einsum("...r,grd,...g->...d", inner, self.up, chosen)


def train_controllers(
    base: SequenceModel,
    layer: int,
    batches: Iterable[Trajectories],
    steps: int,
    learning_rate: float = 1e-2,
    rank: int | None = 16,
) -> SubgoalControllers:
    """Fits controllers at `layer` of the frozen base to clean demonstrations (Table A8).

    Labels are used: this measures what a perfect metacontroller could do, and trains nothing that
    is released.
    """
    controllers = SubgoalControllers(base.world.num_subgoals, base.width, rank)
    optimizer = torch.optim.AdamW(controllers.parameters(), lr=learning_rate, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, batch in zip(range(steps), batches):
        with torch.no_grad():
            residual = base.lower(base.embed(batch.observation[:, :-1]), layer)
        with torch.enable_grad():
            top = base.upper(controllers(residual, batch.subgoal), layer)
            loss = -base.action_log_prob(top[batch.mask], batch.action[batch.mask]).mean()
            optimizer.zero_grad()
            loss.backward(inputs=list(controllers.parameters()))
            optimizer.step()
        schedule.step()
    return controllers.requires_grad_(False)


class GoalGiven(nn.Module):
    """A base model with an embedding of the true subgoal added to e_0: cloning made easy."""

    def __init__(self, config: SequenceModelConfig, world: PinpadSpec):
        super().__init__()
        self.base = SequenceModel(config, world)
        self.goal = nn.Embedding(world.num_subgoals, config.width)

    def steer(self, residual: Tensor, subgoal: Tensor) -> Tensor:
        """e_0 [..., d] and subgoals int64 [...] -> e_0 that tells the subgoal."""
        return residual + self.goal(subgoal.clamp(min=0))


def clone_with_goal(
    config: SequenceModelConfig,
    world: PinpadSpec,
    batches: Iterable[Trajectories],
    steps: int,
    learning_rate: float = 4e-3,
) -> GoalGiven:
    """Trains a base model that is told the subgoal: where this fails, nothing after it can work."""
    model = GoalGiven(config, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, batch in zip(range(steps), batches):
        with torch.enable_grad():
            embedded = model.steer(model.base.embed(batch.observation[:, :-1]), batch.subgoal)
            top = model.base.upper(embedded, 0)
            loss = -model.base.action_log_prob(top[batch.mask], batch.action[batch.mask]).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def control_success(
    base: SequenceModel,
    layer: int,
    controllers: Callable[[Tensor, Tensor], Tensor],
    world: PinpadSpec,
    episodes: int,
    seed: int,
    temperature: float = 1.0,
) -> float:
    """Success on a task when each subgoal's controller acts in its turn (Fig. 4)."""

    def steer(residual: Tensor, info: dict[str, Any]) -> Tensor:
        return controllers(residual, torch.from_numpy(info["subgoal"]))

    return roll_out(base, world, episodes, seed, layer, steer, temperature).success_rate
